"""A page to play with: sixteen pads, a sequencer, and a kit to take away.

studio          what a pad can be asked for: new sounds, variations, parts made anew, what lies between two
uploads         a file that somebody drops onto a pad, or why it is none
takeaway        the pads as a kit for samplers
jobs            a call of the model in steps, which can be stopped between them
server          all of that for a browser, by Gradio's queue
page/           what the browser shows and plays: pads, waveforms, the sequencer
"""
