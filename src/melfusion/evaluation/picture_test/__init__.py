"""The picture test: does a system that makes music for a picture and a prompt listen to its picture?

Every item is a prompt with a seed, put to the system under the conditions of ROWS (items.py). Two things are compared.

1. Do the sounds *depend* on the picture? The sound of another picture must differ from that of the right one by more than a
   repetition of the same call does: permutation test of the signs of the paired differences, p < .01 over all measures.
2. Do they *follow* it? They must be right more often than chance and than with permuted pictures, and more often with the right
   picture than with another one that is as bright: each by its interval of 99 %. Two classifiers are asked for each attribute of
   a scene. The judge knows how the corpus `scenes` plays it. The probe is fitted on the system's own sounds of other items, so a
   system may have a way of its own to play a place. On real tuples the sound must be nearer to the picture's own track.

The verdict is "does not depend on the picture" without 1; "depends on the picture but does not follow it" with 1 alone, also where
brightness explains all that is right; "follows the picture" with 1 and 2, for at least one attribute.

items, scenes, tuples: what is asked.  systems, making: who answers, and the folder of sounds.  measuring: sounds → numbers.
statistics, verdict: pure functions of these numbers.  tables, report: JSON, card and page.  run: all in turn.
"""
