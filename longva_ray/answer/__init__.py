"""Logits -> answer, on cached visual tokens: scored (teacher-forced) or generated (streamed)."""
