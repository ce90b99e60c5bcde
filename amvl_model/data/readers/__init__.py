"""Readers of data sets in their own formats, each a sequence of VisualQuestion.

files             where files lie, on disk or on the Hub; rows of Parquet files
blink             BLINK
benchmarks        V*, HRBench, VisualPuzzles
training_sets     Visual-CoT, ReFocus, CogCoM, Zebra-CoT
training_texts    the texts of those sets: questions, answers, option lists
question_files    own questions in JSONL, Parquet or CSV
"""
