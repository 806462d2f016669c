"""What entries of the corpus name: models, repositories, packages. Whatever an entry takes is what it holds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

COMMIT = "c0ffee" * 6 + "c0ff"
"""Stands for a commit that every repository of the stand-ins has."""
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Model:
    """A file of models: where it is, and where it goes below ``ComfyUI/models``."""

    url: str
    folder: str
    name: str

    @property
    def place(self) -> str:
        """Below the folder of models."""
        return f"{self.folder}/{self.name}"

    @property
    def repository(self) -> str:
        """`OWNER/NAME` of the hub."""
        return "/".join(self.url.removeprefix(f"{HUB}/").split("/")[:2])

    @property
    def inside(self) -> str:
        """The path in its repository."""
        return self.url.partition("/resolve/main/")[2]


_FOLDERS = {
    "checkpoints": ("sd_xl_base", "juggernaut_v11", "pony_v6", "dreamshaper_8"),
    "diffusion_models": ("flux1-dev", "wan2.2_i2v_high", "wan2.2_i2v_low", "qwen_image_fp8", "z_image_turbo", "ltx-2-dev"),
    "text_encoders": ("t5xxl_fp16", "clip_l", "umt5_xxl_fp8", "qwen_2.5_vl_7b"),
    "vae": ("ae", "wan_2.1_vae", "qwen_image_vae", "sdxl_vae"),
    "loras": ("lightx2v_4steps", "detail_tweaker", "add_grain", "style_ink"),
    "controlnet": ("canny_xl", "depth_xl", "openpose_xl"),
    "upscale_models": ("4x_ultra_sharp", "realesrgan_x4"),
    "clip_vision": ("sigclip_384", "clip_vision_h"),
}  # fmt: skip
_OWNERS = ("Comfy-Org", "studio-north", "ellie-makes", "lab42", "open-diffusers")
MODELS = [
    Model(
        f"{HUB}/{_OWNERS[number % 5]}/{folder}-files/resolve/main/{'split_files/' * (number % 2)}{name}.safetensors",
        folder,
        f"{name}.safetensors",
    )
    for folder, names in _FOLDERS.items()
    for number, name in enumerate(names)
]
GGUF = [
    Model(
        f"{HUB}/quantizers/{name}-gguf/resolve/main/{name}-Q5_K_M.gguf",
        "diffusion_models",
        f"{name}-Q5_K_M.gguf",
    )
    for name in ("flux1-dev", "wan2.2-i2v", "qwen-image")
]
ELSEWHERE = [
    Model(f"https://models.example.org/files/{folder}/{name}", folder, name)
    for folder, name in (
        ("loras", "own_style.safetensors"),
        ("embeddings", "negative_hand.pt"),
        ("upscale_models", "4xPurePhoto.pth"),
    )
]
NODES = {
    "kijai/ComfyUI-KJNodes": ("ImageResizeKJ", "GetImageSizeAndCount"),
    "Kosinkadink/ComfyUI-VideoHelperSuite": ("VHS_VideoCombine", "VHS_LoadVideo"),
    "kijai/ComfyUI-WanVideoWrapper": ("WanVideoSampler", "WanVideoDecode"),
    "city96/ComfyUI-GGUF": ("UnetLoaderGGUF", "CLIPLoaderGGUF"),
    "rgthree/rgthree-comfy": ("Power Lora Loader (rgthree)", "Seed (rgthree)"),
    "cubiq/ComfyUI_essentials": ("ImageResize+", "MaskBlur+"),
    "cubiq/ComfyUI_IPAdapter_plus": ("IPAdapterUnifiedLoader", "IPAdapterAdvanced"),
    "ltdrdata/ComfyUI-Impact-Pack": ("FaceDetailer", "SAMLoader"),
    "Fannovel16/comfyui_controlnet_aux": ("DWPreprocessor", "CannyEdgePreprocessor"),
    "pythongosssss/ComfyUI-Custom-Scripts": ("ShowText|pysssss", "MathExpression|pysssss"),
    "ellie-makes/ComfyUI-Paper-Cut": ("PaperCut", "PaperFold"),
    "lab42/comfyui-tone-tools": ("ToneCurve", "ToneMatch"),
    "studio-north/ComfyUI-Batch-Desk": ("BatchDesk", "BatchTray"),
}
"""Repositories of custom nodes, and classes that they offer."""
PROGRAMS = ("ellie-makes/lora-trainer", "lab42/captioner", "studio-north/gallery", "open-diffusers/webui")
PIP = (
    "accelerate", "einops", "opencv-python-headless", "insightface==0.7.3", "onnxruntime-gpu", "transformers>=4.45", "sageattention",
    "huggingface-hub", "gguf", "ftfy", "imageio[ffmpeg]", "scipy<2", "peft", "spandrel", "color-matcher", "nvidia-ml-py",
)  # fmt: skip
APT = (
    "ffmpeg",
    "aria2",
    "git-lfs",
    "libgl1",
    "libglib2.0-0",
    "build-essential",
    "tmux",
    "rsync",
    "unzip",
    "libsndfile1",
)


@dataclass
class Pick:
    """Takes from the lists above, by a seed, and remembers what it took: ``url:…``, ``repo:…``, ``pip:…``, ``apt:…``."""

    name: str
    holds: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.name)

    def models(self, count: int, *folders: str, among: list[Model] | None = None) -> list[Model]:
        """Of these *folders*, or of any."""
        free = [
            model
            for model in (MODELS if among is None else among)
            if (not folders or model.folder in folders) and model.url not in self._taken
        ]
        chosen = self.chance.sample(free, count)
        for model in chosen:
            self._take("url", model.url)
        return chosen

    def model(self, *folders: str, among: list[Model] | None = None) -> Model:
        """One of them."""
        return self.models(1, *folders, among=among)[0]

    def civitai(self) -> str:
        """An address that does not say the file's name."""
        return self.url(f"https://civitai.com/api/download/models/{self.chance.randint(100_000, 999_999)}")

    def url(self, url: str) -> str:
        """Hold *url*."""
        self._take("url", url)
        return url

    def nodes(self, count: int) -> list[str]:
        """Addresses of repositories of custom nodes."""
        free = [name for name in NODES if f"https://github.com/{name}" not in self._taken]
        return [self.repo(name) for name in self.chance.sample(free, count)]

    def repo(self, name: str) -> str:
        """The address of the repository *name*."""
        self._take("repo", f"https://github.com/{name}")
        return f"https://github.com/{name}"

    def program(self) -> str:
        """The address of a program's repository."""
        return self.repo(self.chance.choice(PROGRAMS))

    def pip(self, count: int) -> list[str]:
        """Packages of the index."""
        return self.packages(*self.chance.sample(PIP, count))

    def packages(self, *names: str) -> list[str]:
        """Hold the packages *names*."""
        for name in names:
            self._take("pip", name)
        return list(names)

    def apt(self, count: int) -> list[str]:
        """Packages of the distribution."""
        chosen = self.chance.sample(APT, count)
        for name in chosen:
            self._take("apt", name)
        return chosen

    def _take(self, kind: str, what: str) -> None:
        self._taken.add(what)
        if f"{kind}:{what}" not in self.holds:
            self.holds.append(f"{kind}:{what}")


def quoted(words: list[str], indent: str = "    ") -> str:
    """The entries of an array, one a line."""
    return "".join(f'{indent}"{word}"\n' for word in words)


def repository_name(url: str) -> str:
    """The folder that a clone makes."""
    return url.rpartition("/")[2].removesuffix(".git")
