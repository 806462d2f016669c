"""What the log of a ComfyUI says of its nodes, whatever else is written into it meanwhile."""

from __future__ import annotations

import os

from provision_agent.services import comfyui

NODES = "/w/ComfyUI/custom_nodes"
BEFORE = f"""
Prestartup times for custom nodes:
   0.0 seconds: {NODES}/rgthree-comfy
   1.6 seconds: {NODES}/asleep

Cannot import {NODES}/faces module for custom nodes: No module named 'insightface'
"""
TABLE = f"""
Import times for custom nodes:
   0.0 seconds: {NODES}/rgthree-comfy
   0.0 seconds (IMPORT FAILED): {NODES}/faces
   0.5 seconds: {NODES}/KJNodes
  12.5 seconds: {NODES}/WanVideoWrapper
"""


def nodes_of(log: str) -> tuple[set[str], dict[str, str]]:
    """The names of those that loaded, and why the others did not."""
    imports = comfyui.imports_of(log.splitlines())
    failed = {os.path.basename(path): why for path, why in imports.failed}
    return {os.path.basename(path) for path in imports.loaded}, failed


def test_a_node_that_only_started_early_has_not_loaded() -> None:
    assert nodes_of(BEFORE) == (set(), {"faces": "No module named 'insightface'"})


def test_each_row_counts_where_a_thread_of_a_node_writes_between_them_and_before_them() -> None:
    said = BEFORE + TABLE
    whole = ({"rgthree-comfy", "KJNodes", "WanVideoWrapper"}, {"faces": "No module named 'insightface'"})
    between = said.replace("   0.5 seconds", '  File "connector.py", line 665, in connect\n\n   0.5 seconds')
    before = said.replace("  12.5 seconds", "FETCH DATA from: https://example.com/list.json  12.5 seconds")

    assert nodes_of(said) == nodes_of(between) == nodes_of(before) == whole


def test_a_second_start_says_it_again() -> None:
    again = TABLE.replace(" (IMPORT FAILED)", "")

    assert nodes_of(BEFORE + TABLE + BEFORE)[0] == {"rgthree-comfy", "KJNodes", "WanVideoWrapper"}
    assert "faces" in nodes_of(again)[0]
