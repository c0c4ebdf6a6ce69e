"""The sample catalog: free photographs, masks drawn for them, and rows over all four tasks."""
