package tabletop

import (
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/stretchr/testify/require"
)

var sheets = flag.String("sheets", "", "folder to write PNG contact sheets of the expert's episodes to")

// TestSheets writes contact sheets of the camera's images for visual inspection. It is skipped without
// -sheets.
func TestSheets(t *testing.T) {
	if *sheets == "" {
		t.Skip("no -sheets FOLDER")
	}
	type look struct{ every, columns int }
	for _, l := range layouts {
		for size, look := range map[int]look{64: {2, 8}, 256: {6, 4}} {
			e := open(t, 1, size, nil)
			render := env.Render{Record: "front", RecordEvery: look.every}
			tr, err := e.Reset(t.Context(), env.Reset{Task: l.task.ID, Seed: 3, Render: render})
			require.NoError(t, err)
			clip := tr.Recorded.Data
			for !tr.Done() {
				tr, err = env.StepExpert(t.Context(), e, env.ExpertStep{Steps: 8, Render: render})
				require.NoError(t, err)
				clip = append(clip, tr.Recorded.Data...)
			}
			name := fmt.Sprintf("%s_%d.png", strings.ReplaceAll(l.task.ID, "/", "_"), size)
			writeSheet(t, filepath.Join(*sheets, name), clip, size, look.columns, 256/size)
		}
	}
}

// writeSheet writes the frames of a clip, uint8 [n, size, size, 3], side by side, each pixel enlarged
// zoom times.
func writeSheet(t *testing.T, path string, clip []byte, size, columns, zoom int) {
	n := len(clip) / (size * size * 3)
	cell := size*zoom + 4
	img := image.NewRGBA(image.Rect(0, 0, columns*cell, (n+columns-1)/columns*cell))
	for f := range n {
		for y := range size * zoom {
			for x := range size * zoom {
				o := ((f*size+y/zoom)*size + x/zoom) * 3
				img.Set(f%columns*cell+x, f/columns*cell+y, color.RGBA{clip[o], clip[o+1], clip[o+2], 255})
			}
		}
	}
	file, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, png.Encode(file, img))
	require.NoError(t, file.Close())
}

// open returns a configured env; size 0 is the default image size.
func open(t testing.TB, lanes, size int, settings plugins.Settings) env.Env {
	t.Helper()
	e := New()
	c := plugins.Config{Lanes: lanes, WorldSize: 1, Settings: settings}
	if size > 0 {
		c.Cameras = []plugins.CameraRequest{{Name: "front", Height: size, Width: size}}
	}
	require.NoError(t, e.Configure(t.Context(), c))
	return e
}
