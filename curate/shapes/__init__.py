"""The embedded world: scenes of coloured shapes, their captions and questions, and a pixel oracle."""
