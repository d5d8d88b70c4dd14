"""Draws a triangle off screen with EGL and prints the renderer and the EGL device. An error is the last line of stderr.

doctor.go runs it behind libero_sim/egl_device.py, whose function `prepare` chooses the device.
"""

import os
import sys


def draw():
    device = prepare()  # noqa: F821
    from mujoco.egl import GLContext

    context = GLContext(64, 64)
    context.make_current()
    from OpenGL import GL  # after make_current: it binds to the context's library

    # The context has no surface, so the image goes into a frame buffer.
    GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, GL.glGenFramebuffers(1))
    GL.glBindRenderbuffer(GL.GL_RENDERBUFFER, GL.glGenRenderbuffers(1))
    GL.glRenderbufferStorage(GL.GL_RENDERBUFFER, GL.GL_RGBA8, 64, 64)
    buffer = GL.glGetIntegerv(GL.GL_RENDERBUFFER_BINDING)
    GL.glFramebufferRenderbuffer(GL.GL_FRAMEBUFFER, GL.GL_COLOR_ATTACHMENT0, GL.GL_RENDERBUFFER, int(buffer))
    GL.glViewport(0, 0, 64, 64)
    GL.glClearColor(0, 0, 1, 1)
    GL.glClear(GL.GL_COLOR_BUFFER_BIT)
    GL.glColor3f(1, 0, 0)
    GL.glBegin(GL.GL_TRIANGLES)
    for x, y in ((-0.9, -0.9), (0.9, -0.9), (0, 0.9)):
        GL.glVertex2f(x, y)
    GL.glEnd()
    GL.glFinish()
    pixels = [GL.glReadPixels(x, y, 1, 1, GL.GL_RGB, GL.GL_UNSIGNED_BYTE) for x, y in ((32, 20), (2, 60))]
    middle, corner = map(bytes, pixels)
    if (middle, corner) != (b"\xff\x00\x00", b"\x00\x00\xff"):
        raise RuntimeError(f"the image is wrong: {middle.hex()} in the middle, {corner.hex()} in the corner")
    return f"{GL.glGetString(GL.GL_RENDERER).decode()}, {device}"


try:
    print(draw(), flush=True)
except BaseException as e:
    try:
        message = str(e)
    except Exception:  # PyOpenGL's own errors cannot always be printed
        message = f"error {getattr(e, 'err', 'unknown')}"
    print(f"{type(e).__name__}: " + " ".join(message.split()), file=sys.stderr, flush=True)
    os._exit(1)
os._exit(0)  # skips destructors, which print unrelated errors
