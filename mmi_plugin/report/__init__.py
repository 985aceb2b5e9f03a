"""Results folders to tables and one page."""
