"""The typed settings of every stage, as frozen keyword-only dataclasses.

Each default cites where it comes from: a section of the paper (*Long Context Transfer from Language
to Vision*), the released scripts, or a limit of ours. Settings that change what an image or a video
turns into (grid rule, frame fitting, pooling, vision layer) are not here: they belong to the
weights and live in `lm.longva_config.LongVAConfig`. Only the fitting of video frames can be chosen
here too, because the paper's own tests differ in it.
"""
