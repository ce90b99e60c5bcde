"""AMVL inside lmms-eval, the field's own harness (the extra ``lmms-eval``; written for and tested with lmms-eval 0.7.3).

    lmms-eval --model amvl --model_args pretrained=DIR --tasks blink

    manifest      what the entry point group ``lmms_eval.models`` finds under the name amvl
    model         the two classes that lmms-eval drives: chat (generation) and simple (``--force_simple``, likelihoods too)
    requests      lmms-eval's messages, contexts and generation settings as questions and settings of ours
    decoding      replies and likelihoods of such questions, with latents from the prior
    local_tasks   lmms-eval's own BLINK tasks on a local folder, no hub needed
    samples       what lmms-eval logged, read again by our parser: both scores, every difference with its name

Only ``manifest`` and ``model`` need lmms-eval.
"""
