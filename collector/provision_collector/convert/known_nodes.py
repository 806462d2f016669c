"""What workflows leave unsaid: the folder that a loader reads from, and the repository behind a registry name."""

from __future__ import annotations

FOLDERS = {
    **dict.fromkeys(
        ("CheckpointLoader", "CheckpointLoaderSimple", "ImageOnlyCheckpointLoader", "unCLIPCheckpointLoader", "LTXVAudioVAELoader"),
        "checkpoints",
    ),
    **dict.fromkeys(("UNETLoader", "UnetLoaderGGUF", "UnetLoaderGGUFAdvanced", "WanVideoModelLoader"), "diffusion_models"),
    **dict.fromkeys(("VAELoader", "WanVideoVAELoader"), "vae"),
    **dict.fromkeys(
        (
            "CLIPLoader", "CLIPLoaderGGUF", "DualCLIPLoader", "DualCLIPLoaderGGUF", "TripleCLIPLoader",
            "QuadrupleCLIPLoader", "LTXAVTextEncoderLoader", "LoadWanVideoT5TextEncoder",
        ),
        "text_encoders",
    ),
    **dict.fromkeys(("LoraLoader", "LoraLoaderModelOnly", "WanVideoLoraSelect"), "loras"),
    **dict.fromkeys(("ControlNetLoader", "DiffControlNetLoader"), "controlnet"),
    "CLIPVisionLoader": "clip_vision",
    "StyleModelLoader": "style_models",
    "UpscaleModelLoader": "upscale_models",
    "LatentUpscaleModelLoader": "latent_upscale_models",
    "ModelPatchLoader": "model_patches",
    "AudioEncoderLoader": "audio_encoders",
    "GLIGENLoader": "gligen",
    "HypernetworkLoader": "hypernetworks",
    "PhotoMakerLoader": "photomaker",
    "IPAdapterModelLoader": "ipadapter",
    "InstantIDModelLoader": "instantid",
    "SAMLoader": "sams",
    "UltralyticsDetectorProvider": "ultralytics",
    "ADE_LoadAnimateDiffModel": "animatediff_models",
    "ADE_AnimateDiffLoaderWithContext": "animatediff_models",
}  # fmt: skip
"""By node class, the folder under ComfyUI/models."""

_OWNERS = {
    "Kosinkadink": ("ComfyUI-AnimateDiff-Evolved", "ComfyUI-VideoHelperSuite", "ComfyUI-Advanced-ControlNet"),
    "Fannovel16": ("ComfyUI-Frame-Interpolation", "comfyui_controlnet_aux"),
    "ltdrdata": ("ComfyUI-Manager", "ComfyUI-Impact-Pack", "ComfyUI-Impact-Subpack", "ComfyUI-Inspire-Pack"),
    "kijai": (
        "ComfyUI-WanVideoWrapper", "ComfyUI-KJNodes", "ComfyUI-DepthAnythingV2", "ComfyUI-Florence2",
        "ComfyUI-HunyuanVideoWrapper", "ComfyUI-segment-anything-2", "ComfyUI-SUPIR",
    ),
    "ssitu": ("ComfyUI_UltimateSDUpscale",),
    "pythongosssss": ("ComfyUI-Custom-Scripts",),
    "cubiq": ("ComfyUI_IPAdapter_plus", "ComfyUI_essentials", "ComfyUI_InstantID"),
    "rgthree": ("rgthree-comfy",),
    "city96": ("ComfyUI-GGUF",),
    "Lightricks": ("ComfyUI-LTXVideo",),
    "yolain": ("ComfyUI-Easy-Use",),
    "Suzie1": ("ComfyUI_Comfyroll_CustomNodes",),
    "jags111": ("efficiency-nodes-comfyui",),
    "Acly": ("comfyui-inpaint-nodes", "comfyui-tooling-nodes"),
}  # fmt: skip
REPOSITORIES = {
    name.lower(): f"https://github.com/{owner}/{name}" for owner, names in _OWNERS.items() for name in names
}
"""By the name in ComfyUI's registry, in lower case."""

CORE_CLASSES = frozenset(
    (
        *(name for name in FOLDERS if "GGUF" not in name and not name.startswith(("ADE_", "Wan", "LoadWan", "IPA", "Ins", "SAM", "Ultra"))),
        "KSampler", "KSamplerAdvanced", "KSamplerSelect", "SamplerCustom", "SamplerCustomAdvanced", "BasicScheduler",
        "BasicGuider", "CFGGuider", "RandomNoise", "FluxGuidance", "CLIPTextEncode", "CLIPSetLastLayer",
        "CLIPVisionEncode", "ConditioningCombine", "ConditioningZeroOut", "ControlNetApply", "ControlNetApplyAdvanced",
        "EmptyLatentImage", "EmptySD3LatentImage", "EmptyHunyuanLatentVideo", "LatentUpscale", "LatentUpscaleBy",
        "LoadImage", "LoadImageMask", "SaveImage", "PreviewImage", "ImageScale", "ImageScaleBy", "ImageUpscaleWithModel",
        "ModelSamplingSD3", "ModelSamplingFlux", "SaveAnimatedWEBP", "SaveVideo", "CreateVideo", "VAEDecode",
        "VAEDecodeTiled", "VAEEncode", "VAEEncodeForInpaint", "WanImageToVideo",
    )
)  # fmt: skip
"""Node classes of ComfyUI itself; others in an API-format workflow may be custom."""
