"""From clips to results: the labels of a subset or of any video, over time, drawn in; and features.

Here a network is a `Scorer`: a function from uint8 clips to an array, a `ClipSpec` and class names. So an
exported model serves as well, and nothing here needs Paddle.
"""
