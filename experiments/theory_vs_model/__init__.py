"""The theory against checkpoints: leaked information and posterior spread at other gammas, predicted without a fitted number.

From what is measured at one reference checkpoint to what training makes of another gamma is a ladder; each rung adds one thing
that the rung before it leaves out, so that it shows where theory and model part:

    T4            linear response at the measured posterior precision                          amvl_theory: measured_response.py
    T6 held       linear response, widths at rest before the held prior                        measured_response.py
    T6 moving     linear response, the prior follows by moment matching (group lasso)          measured_response.py
    T6 letter     T6 held with one force a letter and task, from the other half of the questions   reference.py
    softmax       the log-linear decoder with the same forces, otherwise as T6 held            rungs.py
    softmax letter  the same with one posterior a letter and task, from the other half         rungs.py
    free          the real decoder, a free posterior a question and option                     diagnostics/free_posterior.py
    head untrained, both heads untrained   fresh heads before their first step: what random weights reveal of the answer
    head 300      a fresh posterior head trained alone as long as the run, all else held       heads.py
    both heads 300  the prior's head trained with it: the prior follows, backbone and decoder are held
    trained       the checkpoint that was trained at that gamma                                study.py

T6 held -> softmax -> free is non-linearity, free -> head is amortisation and training time, head -> both heads is the prior that
follows, both heads -> trained is co-adaptation of backbone, injector and decoder. `ladder.py` climbs it, `scores.py` compares
it with baselines, `study.py` draws it; `python experiments/theory_vs_checkpoints.py` does all three.
"""
