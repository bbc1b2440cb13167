"""What every part of a run stands on. Imports neither Paddle nor numpy."""
