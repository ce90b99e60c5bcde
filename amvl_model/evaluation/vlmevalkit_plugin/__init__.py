"""AMVL inside VLMEvalKit (written for and tested with its main branch of August 2026, 0.2rc1).

    python -m amvl_model.evaluation.vlmevalkit_plugin PATH/run.py --config amvl.json --judge exact_matching --work-dir OUT

with PATH a clone of VLMEvalKit, and amvl.json in VLMEvalKit's own form:

    {"model": {"amvl": {"class": "AMVL", "pretrained": "DIR"}},
     "data": {"BLINK": {"class": "ImageMCQDataset", "dataset": "BLINK"}}}

    model       the class that VLMEvalKit drives: generate_inner, and our prompt on request
    __main__    VLMEvalKit's run.py with this class known to it
    samples     what VLMEvalKit wrote, read again by our parser: both scores, every difference with its name

Only ``model`` and ``__main__`` need VLMEvalKit.
"""
