package tabletop

import (
	"flag"
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

var sheets = flag.String("sheets", "", "folder to write PNG contact sheets of the expert's episodes to, for looking at")

// TestSheets writes what the camera sees, for a person to look at; without -sheets it does nothing.
func TestSheets(t *testing.T) {
	if *sheets == "" {
		t.Skip("no -sheets FOLDER")
	}
	for _, l := range layouts {
		for _, size := range []int{64, 256} {
			e := open(t, 1, size, nil)
			render := env.Render{Record: "front", RecordEvery: map[int]int{64: 2, 256: 6}[size]}
			tr, err := e.Reset(t.Context(), env.Reset{Task: l.task.ID, Seed: 3, Render: render})
			require.NoError(t, err)
			clip := tr.Recorded.Data
			for !tr.Done() {
				tr, err = e.Step(t.Context(), env.Step{Expert: 8, Render: render})
				require.NoError(t, err)
				clip = append(clip, tr.Recorded.Data...)
			}
			columns := map[int]int{64: 8, 256: 4}[size]
			writeSheet(t, filepath.Join(*sheets, strings.ReplaceAll(l.task.ID, "/", "_")+map[int]string{64: "_64.png", 256: "_256.png"}[size]), clip, size, columns, 256/size)
		}
	}
}

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

// open returns a configured env; size 0 is the default.
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
