"""What a run learned, to look at: the curves of its training and the page on its results."""
