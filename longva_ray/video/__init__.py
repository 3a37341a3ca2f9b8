"""VIDEO -> FRAMES: which frames to look at, and how to get exactly those out of a file.

sampling   number of frames, frames per second -> indices of the frames to look at
probe      path -> VideoInfo, or a VideoError that says what is wrong with the file
decode     VideoInfo, indices -> chunks of frames fitted to a square (pyav_frames, decord_frames)
fitting    the geometry of fitting, shared with images; canvas applies it to one video
synthetic  videos whose content is known: numbered scenes, counting frames
"""
