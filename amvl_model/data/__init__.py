"""Questions with images: schema, sources, processor.

schema        VisualQuestion
images        any image as upright RGB; image files and bytes
rows          rows of foreign data sets (chat messages, prompt and completion) as questions
processing    AMVLProcessor: questions to padded tensors
sources       training and evaluation questions of a configuration
mixture       several sets by weight; damaged questions skipped and counted
readers       benchmarks, training sets, own files
synthetic     synthetic BLINK, drawn procedurally
"""
