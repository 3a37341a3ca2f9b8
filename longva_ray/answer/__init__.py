"""Stage 5, logits -> answer, on cached visual tokens: `score` (teacher-forced) and `generate`
(streaming)."""
