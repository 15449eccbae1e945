"""A job as the HTTP interface shows it."""

from __future__ import annotations

from typing import Any

from ..jobs.job import COMPLETED, FAILED, IN_PROGRESS, QUEUED, Job
from .supervisor.progress import JobProgress


def video_object(
    job: Job, progress: JobProgress | None, position: int | None, keep_seconds: float | None
) -> dict[str, Any]:
    """Return a job in OpenAI's names first, then in vLLM-Omni's and ours. position: how many wait before it."""
    facts, request = job.facts, job.request
    width, height, frames, fps = (facts.get(name) for name in ("width", "height", "num_frames", "fps"))
    size = f"{width}x{height}" if width and height else str(request.get("size") or "")
    seconds = f"{frames / fps:.6g}" if frames and fps else str(request.get("seconds") or "")
    running = job.status == IN_PROGRESS and progress is not None
    percent = {QUEUED: 0, COMPLETED: 100, FAILED: 0}.get(job.status, progress.percent if progress else 0)
    expires = None
    if job.completed_at is not None and keep_seconds is not None:
        expires = int(job.completed_at + keep_seconds)
    return {
        "id": job.id,
        "object": "video",
        "status": job.status,
        "progress": percent,
        "created_at": job.created_at,
        "completed_at": job.completed_at,
        "expires_at": expires,
        "model": job.model,
        "prompt": request["prompt"],
        "seconds": seconds,
        "size": size,
        "quality": "standard",
        "remixed_from_video_id": job.remixed_from,
        "error": None
        if job.status != FAILED
        else {"code": job.error_code or "failed", "message": job.error_message or ""},
        "width": width,
        "height": height,
        "num_frames": frames,
        "fps": fps,
        "num_inference_steps": facts.get("num_inference_steps", request.get("num_inference_steps")),
        "guidance_scale": facts.get("guidance_scale", request.get("guidance_scale")),
        "negative_prompt": request.get("negative_prompt") or "",
        "seed": request.get("seed"),
        "stage": progress.stage if running and progress else None,
        "step": progress.step if running and progress else None,
        "total": progress.total if running and progress else None,
        "queue_position": position if job.status == QUEUED else None,
        "provenance": facts.get("provenance"),
    }
