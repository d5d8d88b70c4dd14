"""Frames on demand: one GL context for the life of the process, one MuJoCo drawing context for each loaded task.

robosuite makes a GL context for every simulation and leaves it current. When a second simulation is loaded and the
first one is freed, the first one's textures and meshes are deleted by number inside the second one's context, and its
frames come out empty. Here all drawing contexts live in one GL context, where their numbers cannot meet.

A GL context belongs to the thread that uses it: all of this must be called from one thread, as srpo_sdk does.
"""

from __future__ import annotations

import atexit
import copy
import functools

import mujoco
import numpy as np

DEFAULT_MULTISAMPLE = 4  # MuJoCo's and LIBERO's own; another number gives other pixels


@functools.cache
def gl_context():
    """The process's GL context, made at the first call; raises what the driver says."""
    from robosuite.utils.binding_utils import GLContext

    context = GLContext(max_width=640, max_height=480, device_id=-1)
    atexit.register(context.free)  # before the driver's own exit, which would make freeing it an error
    return context


def coarse(model: mujoco.MjModel, cell: float) -> mujoco.MjModel:
    """A copy of the model to be drawn from, not simulated: vertices of a mesh within a cube of ``cell`` m are one.

    Triangles that this leaves without an area, or twice, are gone; the others keep their normals and texture places.
    A driver without a GPU takes its time by triangles, not by pixels (LIBERO's scenes have 0.3 million).
    The method is Rossignac and Borrel's vertex clustering ("Multi-resolution 3D approximations", 1993).
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
        for of_faces in (model.mesh_facenormal, model.mesh_facetexcoord):
            of_faces[begin:end] = of_faces[begin : begin + count][kept]
    return model


class Drawing:
    """One model's textures and meshes on the GL side.

    ``multisample``: samples a pixel. ``cell``: see ``coarse``, in m; 0 draws every triangle.
    """

    def __init__(self, model: mujoco.MjModel, multisample: int = DEFAULT_MULTISAMPLE, cell: float = 0.0):
        self.model = model
        self.cell = cell
        model.vis.quality.offsamples = multisample
        self.scene = mujoco.MjvScene(model, maxgeom=1000)
        self.perturbation = mujoco.MjvPerturb()
        self.options = mujoco.MjvOption()
        self.options.geomgroup[0] = 0  # collision shapes
        self.options.geomgroup[1] = 1  # what LIBERO shows
        self.context = None
        gl_context().make_current()
        self._open(0, 0)

    def _open(self, height: int, width: int) -> None:
        """(Re)make the drawing context with a buffer of at least this size in pixels; textures are uploaded again."""
        if self.context is not None:
            self.context.free()
        size = self.model.vis.global_
        size.offwidth, size.offheight = max(width, size.offwidth), max(height, size.offheight)
        meshes = coarse(self.model, self.cell) if self.cell > 0 else self.model
        self.context = mujoco.MjrContext(meshes, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)

    def frame(self, data: mujoco.MjData, camera: int, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3] of the state in ``data``, seen by the model's camera ``camera``.

        Turned by half a turn against MuJoCo's bottom-up rows, ``[::-1, ::-1]``, as all work on LIBERO with
        vision-language-action models does (upright, but mirrored left to right).
        """
        gl_context().make_current()
        if width > self.context.offWidth or height > self.context.offHeight:
            self._open(height, width)
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
        """Give the textures and meshes back to GL."""
        if self.context is not None:
            gl_context().make_current()
            self.context.free()
            self.context = None
        self.scene = None
