package media

import (
	"bytes"
	"image/gif"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// The composed frames of the GIF are those of the clip, to within a few levels.
func TestGIFShowsTheClip(t *testing.T) {
	for _, tc := range []struct{ n, side, shown, size int }{
		{30, 64, 30, 64}, {1, 5, 1, 5}, {200, 32, 60, 32}, {40, 256, 40, 128},
	} {
		c := disc(tc.n, tc.side)
		var b bytes.Buffer
		require.NoError(t, EncodeGIF(&b, c, GIF{}))
		g, err := gif.DecodeAll(bytes.NewReader(b.Bytes()))
		require.NoError(t, err)
		require.Len(t, g.Image, tc.shown)
		require.Equal(t, tc.size, g.Config.Width)
		canvas := make([][3]int, tc.size*tc.size)
		var sq, count float64
		for i, f := range g.Image {
			for y := f.Rect.Min.Y; y < f.Rect.Max.Y; y++ {
				for x := f.Rect.Min.X; x < f.Rect.Max.X; x++ {
					if r, gr, bl, a := f.At(x, y).RGBA(); a != 0 {
						canvas[y*tc.size+x] = [3]int{int(r >> 8), int(gr >> 8), int(bl >> 8)}
					}
				}
			}
			if tc.shown != tc.n || tc.size != tc.side {
				continue
			}
			for p, v := range canvas {
				for ch, x := range v {
					d := float64(x) - float64(c.Data[(i*tc.side*tc.side+p)*3+ch])
					sq += d * d
					count++
				}
			}
		}
		if count > 0 {
			require.Less(t, math.Sqrt(sq/count), 6.0, "root mean square error, levels of 255")
		}
		require.Less(t, b.Len(), 120<<10)
	}
}

func TestLargeStillClipIsSmall(t *testing.T) {
	c := disc(1, 128)
	data := bytes.Repeat(c.Data, 60)
	var one, many bytes.Buffer
	require.NoError(t, EncodeGIF(&one, c, GIF{}))
	require.NoError(t, EncodeGIF(&many, plugins.Bytes(data, 60, 128, 128, 3), GIF{}))
	require.Less(t, many.Len(), one.Len()+60*40, "a frame that changes nothing costs next to nothing")
}

// disc is a disc that moves over a shaded background, uint8 [n, side, side, 3].
func disc(n, side int) plugins.Tensor {
	data := make([]byte, n*side*side*3)
	for f := range n {
		cx, cy := float64(side)*(0.2+0.6*float64(f)/float64(max(1, n-1))), float64(side)*0.5
		for y := range side {
			for x := range side {
				p := data[((f*side+y)*side+x)*3:]
				p[0], p[1], p[2] = byte(200*x/side), byte(200*y/side), 90
				if math.Hypot(float64(x)-cx, float64(y)-cy) < float64(side)/8 {
					p[0], p[1], p[2] = 230, 40, 30
				}
			}
		}
	}
	return plugins.Bytes(data, n, side, side, 3)
}
