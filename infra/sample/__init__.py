"""The sample catalog: free photographs, masks drawn for them, and rows for the tasks."""
