"""What runs leave behind: journals, run folders, and the history made of them."""
