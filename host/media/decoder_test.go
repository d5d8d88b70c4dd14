package media

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

// installed returns the decoder of the user's cache. The test is skipped without it, because a test installs nothing.
func installed(t *testing.T) *Decoder {
	cache, err := pyenv.CacheDir()
	require.NoError(t, err)
	pkg, err := (&catalog.Catalog{}).Open("decode")
	require.NoError(t, err)
	m := pkg.Manifest.Python
	env, err := pyenv.Open(pyenv.Spec{Name: pkg.Name, Python: m.Requirement, Requirements: filepath.Join(pkg.Dir,
		m.Requirements)}, pyenv.Options{Cache: cache})
	if err != nil {
		t.Skip("the video decoder is not installed here: srpo reward host/media/testdata installs it")
	}
	d := &Decoder{Command: func(context.Context) ([]string, []string, error) {
		return []string{env.Python, "-u", filepath.Join(pkg.Dir, m.Entry)}, nil, nil
	}}
	t.Cleanup(d.Close)
	return d
}

func TestDecodesVideos(t *testing.T) {
	d := installed(t)
	ctx := context.Background()
	for name, tolerance := range map[string]float64{"square.mp4": 6, "square.webp": 0.1} {
		c, err := Open(ctx, filepath.Join("testdata", name), d)
		require.NoError(t, err, name)
		require.LessOrEqual(t, apart(t, square(16), c.Frames), tolerance, name)
		require.Equal(t, 16, c.Seen)
	}
	dir := t.TempDir()
	putFile(t, filepath.Join(dir, "text.mp4"), []byte("hello world, this is not a film"))
	putFile(t, filepath.Join(dir, "text.webp"), []byte("hello"))
	for path, want := range map[string]string{
		"testdata/black.mp4":            "every frame is black",
		"testdata/truncated.mp4":        "it does not decode",
		"testdata/truncated.webp":       "it does not decode",
		filepath.Join(dir, "text.mp4"):  "it does not decode",
		filepath.Join(dir, "text.webp"): "it does not decode",
	} {
		_, err := Open(ctx, path, d)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), path)
		require.Contains(t, plugins.AsError(err).Message, want, path)
	}
	// Large pictures are halved in the same way as in Go.
	d.limits = &bounds{MaxFrames: 1000, MaxBytes: 4 * 48 * 32 * 3, LeastFrames: 8, LeastSide: 16}
	c, err := Open(ctx, "testdata/square.webp", d)
	require.NoError(t, err)
	want := &frameSampler{bounds: *d.limits}
	for k := range 16 {
		size := 32 * 48 * 3
		require.NoError(t, want.add(32, 48, square(16).Data[k*size:(k+1)*size]))
	}
	halved, err := want.clip()
	require.NoError(t, err)
	require.LessOrEqual(t, apart(t, halved.Frames, c.Frames), 0.1)
	require.Equal(t, halved.Note, c.Note)
	require.Equal(t, []int{16, 16, 24, 3}, c.Frames.Shape)
	d.limits = nil
	// The same process still decodes after all these failures.
	_, err = Open(ctx, "testdata/square.mp4", d)
	require.NoError(t, err)
}

// script returns a decoder whose program is a shell script.
func script(t *testing.T, text string) *Decoder {
	path := filepath.Join(t.TempDir(), "decoder")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
	d := &Decoder{Command: func(context.Context) ([]string, []string, error) { return []string{path}, nil, nil },
		Timeout: 10 * time.Second}
	t.Cleanup(d.Close)
	return d
}

func TestDecoderThatDiesCostsOneVideo(t *testing.T) {
	d := script(t, `read line
case "$line" in *bad*) echo "Segmentation fault" >&2; exit 139;; esac
echo '{"problem": "as told"}'
read line`)
	dir := t.TempDir()
	bad, good := putFile(t, filepath.Join(dir, "bad.mp4"), []byte("x")), putFile(t, filepath.Join(dir, "good.mp4"),
		[]byte("x"))
	_, err := Open(context.Background(), bad, d)
	require.ErrorContains(t, err, "it killed the decoder: Segmentation fault")
	_, err = Open(context.Background(), good, d)
	require.ErrorContains(t, err, "as told")
}

func TestDecoderThatHangsOrLies(t *testing.T) {
	path := putFile(t, filepath.Join(t.TempDir(), "a.mp4"), []byte("x"))
	d := script(t, "sleep 60")
	d.Timeout = 50 * time.Millisecond
	_, err := Open(context.Background(), path, d)
	require.ErrorContains(t, err, "not decoded within 50ms")
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Open(ctx, path, script(t, "sleep 60"))
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))

	_, err = Open(context.Background(), path,
		script(t, `read x; echo '{"frames": 1000000, "height": 100000, "width": 9}'`))
	require.ErrorContains(t, err, "killed the decoder")
}

// When the decoder cannot be installed, every video gets the reason, and installation is tried once only.
func TestDecoderThatCannotBeInstalled(t *testing.T) {
	tries := 0
	d := &Decoder{Command: func(context.Context) ([]string, []string, error) {
		tries++
		return nil, nil, plugins.Errorf(plugins.Unavailable, "no network").WithHint("connect")
	}}
	path := putFile(t, filepath.Join(t.TempDir(), "a.mp4"), []byte("x"))
	for range 3 {
		_, err := Open(context.Background(), path, d)
		var e *plugins.Error
		require.True(t, errors.As(err, &e))
		require.Equal(t, plugins.Unavailable, e.Kind)
	}
	require.Equal(t, 1, tries)
	_, err := Open(context.Background(), path, &Decoder{Command: func(context.Context) ([]string, []string, error) {
		return []string{"/nonexistent/bin/python"}, nil, nil
	}})
	require.ErrorContains(t, err, "does not start")
}
