"""Published ways of sampling Wan checkpoints that were distilled to few steps, and its plain ones, as data.

Self-Forcing's and CausVid's own programs also run a causal model chunk by chunk; what stands here is their sampling. The
timesteps in `warp` are listed before the shift, as in the configuration files that the sources name.
"""

from __future__ import annotations

from ....bundle.manifest import Recipe

WAN_RECIPES = (
    Recipe(
        name="self-forcing",
        sampler="sde",
        steps=4,
        warp=[1000, 750, 500, 250],
        shift=5,
        guidance=1,
        source="Self-Forcing, configs/self_forcing_dmd.yaml and pipeline/causal_inference.py; SiD alike",
    ),
    Recipe(
        name="causvid-3",
        sampler="sde",
        steps=3,
        timesteps=[1000, 757, 522],
        guidance=1,
        source="CausVid, configs/wan_*_dmd.yaml",
    ),
    Recipe(
        name="causvid-4",
        sampler="sde",
        steps=4,
        warp=[1000, 750, 500, 250],
        shift=8,
        guidance=1,
        source="CausVid, configs/wan_causal_dmd_warp_4step_cfg2.yaml",
    ),
    Recipe(
        name="fastwan",
        sampler="sde",
        steps=3,
        timesteps=[1000, 757, 522],
        guidance=1,
        source="FastVideo, pipelines/stages/denoising.py (FastWan 2.1 1.3B and 2.2 5B)",
    ),
    Recipe(
        name="lightx2v-4",
        sampler="euler",
        steps=4,
        warp=[1000, 750, 500, 250],
        shift=5,
        guidance=1,
        boundary=0.875,
        source="LightX2V, schedulers/wan/step_distill/scheduler.py; Wan2.2-Lightning, issue 3",
    ),
    Recipe(
        name="lightx2v-4-lcm",
        sampler="sde",
        steps=4,
        warp=[1000, 750, 500, 250],
        shift=5,
        guidance=1,
        source="LightX2V, WanStepDistillScheduler and issue 138: how Wan 2.1's adapters were first released",
    ),
    Recipe(
        name="rcm",
        sampler="rcm",
        steps=4,
        sigma_max=80,
        guidance=1,
        source="TurboDiffusion, inference/wan2.1_t2v_infer.py",
    ),
    Recipe(
        name="wan-480p",
        sampler="unipc",
        steps=50,
        shift=3,
        guidance=5,
        source="diffusers, pipelines/wan (Wan 2.1, not distilled, 480p)",
    ),
    Recipe(
        name="wan-720p",
        sampler="unipc",
        steps=50,
        shift=5,
        guidance=5,
        source="diffusers, pipelines/wan (Wan 2.1, not distilled, 720p)",
    ),
    Recipe(
        name="wan22-a14b",
        sampler="unipc",
        steps=40,
        shift=12,
        guidance=4,
        expert_guidance=[4, 3],
        boundary=0.875,
        source="Wan 2.2, wan/configs/wan_t2v_A14B.py (not distilled)",
    ),
    Recipe(
        name="wan22-5b",
        sampler="unipc",
        steps=50,
        shift=5,
        guidance=5,
        source="Wan 2.2, wan/configs/wan_ti2v_5B.py (not distilled)",
    ),
)
