"""The sample catalog: free photographs, masks drawn for them, and rows over all five tasks."""
