"""The nano world: a procedural data set of captioned scenes, small enough for a laptop and exactly checkable.

A scene is one to four coloured shapes on a dark 32x32 image. Around it stand captions in several styles,
question-answer pairs, rendered words and GenEval-style prompts; :mod:`raexla.eval.scenes` is the scorer. Everything is
a pure function of (split, seed, index): nothing is read from disk and nothing is downloaded.

What is held out, in every split that anything is trained on, text included:

- the colour-shape pairs of :data:`raexla.data.nano.scenes.HELD_OUT_PAIRS` never occur, in pictures or in words;
- captions whose hash falls into the evaluation bucket (:func:`raexla.data.nano.captions.is_evaluation_caption`) are
  never used; evaluation prompts come from that bucket only.
"""
