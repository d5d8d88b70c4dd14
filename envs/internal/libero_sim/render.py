"""Rendering on demand: one GL context per process, one MuJoCo rendering context per loaded scene.

robosuite creates a GL context for every simulation and leaves it current. When a second simulation is loaded and the
first one is freed, the first one's textures and meshes are deleted by number in the second one's context, whose frames
are then empty. Here all rendering contexts share one GL context, where their numbers are distinct.

A GL context belongs to one thread, so all functions must be called from the same thread, as srpo_sdk does.
"""

from __future__ import annotations

import atexit
import copy
import functools

import mujoco
import numpy as np

DEFAULT_MULTISAMPLE = 4  # as in MuJoCo and LIBERO; other values give other pixels


@functools.cache
def gl_context():
    """Return the process's GL context, created at the first call. Errors are those of the GL library."""
    from robosuite.utils.binding_utils import GLContext

    context = GLContext(max_width=640, max_height=480, device_id=-1)
    atexit.register(context.free)  # it must be freed before the driver's own exit handler runs
    return context


def simplify(model: mujoco.MjModel, cell: float) -> mujoco.MjModel:
    """Return a copy of the model for rendering in which a mesh's vertices within a cube of ``cell`` m are merged.

    Triangles without an area and duplicates are removed; the others keep their normals and texture coordinates. Without
    a GPU, rendering time depends on triangles rather than pixels (LIBERO's scenes have 0.3 million triangles). The
    method is vertex clustering (Rossignac and Borrel, "Multi-resolution 3D approximations", 1993).
    """
    model = copy.deepcopy(model)
    for mesh in range(model.nmesh):
        begin, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        cubes = np.floor(model.mesh_vert[begin : begin + count] / cell).astype(np.int64)
        _, first, cube = np.unique(cubes, axis=0, return_index=True, return_inverse=True)
        begin, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        faces = first[cube.reshape(-1)][model.mesh_face[begin : begin + count]]
        a, b, c = faces.T
        kept = np.flatnonzero((a != b) & (b != c) & (a != c))
        _, once = np.unique(np.sort(faces[kept], axis=1), axis=0, return_index=True)
        kept = kept[np.sort(once)]
        model.mesh_facenum[mesh] = len(kept)
        end = begin + len(kept)
        model.mesh_face[begin:end] = faces[kept]
        for per_face in (model.mesh_facenormal, model.mesh_facetexcoord):
            per_face[begin:end] = per_face[begin : begin + count][kept]
    return model


class Renderer:
    """Renders one model; owns its textures and meshes in GL.

    Args:
        model: its ``vis`` settings are changed.
        multisample: samples per pixel.
        cell: cell size of ``simplify`` in m; 0 renders every triangle.
    """

    def __init__(self, model: mujoco.MjModel, multisample: int = DEFAULT_MULTISAMPLE, cell: float = 0.0):
        self.model = model
        self.cell = cell
        model.vis.quality.offsamples = multisample
        self.scene = mujoco.MjvScene(model, maxgeom=1000)
        self.perturbation = mujoco.MjvPerturb()
        self.options = mujoco.MjvOption()
        self.options.geomgroup[0] = 0  # collision geometry, hidden
        self.options.geomgroup[1] = 1  # visual geometry
        self.context = None
        gl_context().make_current()
        self._create_context(0, 0)

    def _create_context(self, height: int, width: int) -> None:
        """Create the rendering context with a buffer of at least this size in pixels and upload textures and meshes."""
        if self.context is not None:
            self.context.free()
        size = self.model.vis.global_
        size.offwidth, size.offheight = max(width, size.offwidth), max(height, size.offheight)
        meshes = simplify(self.model, self.cell) if self.cell > 0 else self.model
        self.context = mujoco.MjrContext(meshes, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)

    def frame(self, data: mujoco.MjData, camera: int, height: int, width: int) -> np.ndarray:
        """Return uint8 [height, width, 3]: the state in ``data`` seen by the camera with this index.

        The image is MuJoCo's (rows from the bottom) rotated by 180 degrees, ``[::-1, ::-1]``, as is usual for
        vision-language-action models on LIBERO. It is upright and mirrored left to right.
        """
        gl_context().make_current()
        if width > self.context.offWidth or height > self.context.offHeight:
            self._create_context(height, width)
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = camera
        mujoco.mjv_updateScene(
            self.model, data, self.options, self.perturbation, view, mujoco.mjtCatBit.mjCAT_ALL, self.scene
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        mujoco.mjr_render(viewport, self.scene, self.context)
        mujoco.mjr_readPixels(pixels, None, viewport, self.context)
        return np.ascontiguousarray(pixels[::-1, ::-1])

    def close(self) -> None:
        """Free the textures and meshes in GL."""
        if self.context is not None:
            gl_context().make_current()
            self.context.free()
            self.context = None
        self.scene = None
