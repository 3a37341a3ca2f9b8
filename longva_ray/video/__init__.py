"""VIDEO -> FRAMES: which frames to look at, and how to get exactly those out of a file.

sampling       number of frames, frames per second -> indices of the frames to look at
probe          path -> VideoInfo, or a VideoError that says what is wrong with the file
container      opening a file and finding its video stream
packets        when each frame is shown, and whether the file is complete (matroska: its skeleton,
               clock: whether times start anew)
decode         VideoInfo, indices -> chunks of frames fitted to a square
pyav_frames    the decoder that is used; `decord_frames` is the one to ask for
fitting        the geometry of fitting, shared with images; `canvas` applies it to one video
orientation    how a stored picture is turned and mirrored to be upright
write          frames -> a video file
"""
