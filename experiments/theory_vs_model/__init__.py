"""The theory against checkpoints: leaked information and posterior spread at other gammas, predicted without a fitted number.

Approximation levels lead from what is measured at one reference checkpoint to what training makes of another gamma. Every level
adds one effect that the level before it leaves out, so that the levels show where theory and model part:

    T4                    linear response at the measured posterior precision
    T6 held               linear response, widths at rest before the held prior
    T6 moving             linear response, the prior follows by moment matching (group lasso)
    T6 letter             T6 held with one force per letter and task, from the other half of the questions
    softmax               the log-linear decoder with the same forces, otherwise as T6 held
    softmax letter        the same with one posterior per letter and task, from the other half
    free                  the real decoder, a free posterior per question and option
    head untrained,       fresh heads before their first step: what random weights reveal of the answer
      both heads untrained
    head 300              a fresh posterior head trained alone as long as the run, all else held
    both heads 300        the prior's head trained with it: the prior follows, backbone and decoder are held
    T10, T10 Adam         not at rest: the reference's own leak falls as its posterior widens (T10; Adam's crossover, case 4)
    trained               the checkpoint that was trained at that gamma

T6 held -> softmax -> free is non-linearity, free -> head is amortisation and training time, head -> both heads is the prior that
follows, both heads -> trained is co-adaptation of backbone, injector and decoder.

plan           what is measured and predicted
reference      forces, curvature and distributions of the reference checkpoint, the input of the theory
levels/        linear (T4 and T6, solved by amvl_theory.equilibria.measured_response), decoder (softmax, free), heads,
               transient (T10)
predictions    all levels of one reference checkpoint, and the same figures of trained checkpoints
scoring/       tables of every question's figures, scores beside baselines, their summary
study          cells of the study, result files, figure
collapse       planned test of T11 on the study `reading`: how often the decoder reads the leak; prior widths (T12)
forecasts      how right the calculator of T11 is on the runs of that study
floor          planned test on the study `posterior-std`: T10's floor under one std for all answers

`python experiments/theory_vs_checkpoints.py` predicts, scores and draws.
"""
