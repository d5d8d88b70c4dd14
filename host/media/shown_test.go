package media

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// moveAndRest is the clip of testdata/make_shown.py: a square moves in the first 6 of 16 frames and then rests.
func moveAndRest() plugins.Tensor {
	moving := square(7)
	size := len(moving.Data) / 7
	data := bytes.Clone(moving.Data)
	for range 9 {
		data = append(data, moving.Data[6*size:]...)
	}
	return plugins.Bytes(data, 16, 32, 48, 3)
}

// The same scene gives the same frames in every container, with a frame only where something changes, with every
// display matrix and EXIF orientation, and beside covers and previews.
func TestVideosAreReadAsTheyAreShown(t *testing.T) {
	d := installed(t)
	argv, _, err := d.Command(t.Context())
	require.NoError(t, err)
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), argv[0], "testdata/make_shown.py", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	want := moveAndRest()
	read := 0
	for _, e := range entries {
		name := e.Name()
		paths := []string{filepath.Join(dir, name)}
		switch {
		case name == "part1.ts" || name == "part2.ts": // the halves of jump.ts
			continue
		case name == "only-cover.mp4":
			_, err := Open(t.Context(), paths[0], d)
			require.ErrorContains(t, err, "only a cover picture")
			continue
		case e.IsDir():
			paths = []string{filepath.Join(paths[0], "jpg"), filepath.Join(paths[0], "png"),
				filepath.Join(paths[0], "webp")}
		}
		for _, path := range paths {
			c, err := Open(t.Context(), path, d)
			require.NoError(t, err, path)
			require.Equal(t, want.Shape, c.Frames.Shape, path)
			require.LessOrEqual(t, apart(t, want, c.Frames), 6.0, path)
			require.Equal(t, 16, c.Seen, path)
			shownUnevenly := bytes.HasPrefix([]byte(name), []byte("changes.")) || name == "hidden.apng"
			require.Equal(t, shownUnevenly, c.Note != "", "%s: %s", path, c.Note)
			read++
		}
	}
	require.Greater(t, read, 50)
}

func TestCountTicks(t *testing.T) {
	for _, c := range []struct {
		delays []float64
		ticks  []int
		tick   float64
	}{
		{[]float64{100, 100, 3100}, []int{1, 1, 31}, 100},
		{[]float64{5}, []int{1}, 5},
		{[]float64{3, 3, 4, 3, 3, 4}, []int{1, 1, 1, 1, 1, 1}, 10. / 3}, // 30 per second in hundredths
		{[]float64{33, 33, 34, 40, 27, 33}, []int{1, 1, 1, 1, 1, 1}, 200. / 6},
		{[]float64{50, 500, 50, 500}, []int{1, 10, 1, 10}, 50},
		{[]float64{1000, 1, 1000}, []int{1000, 1, 1000}, 1},
		{[]float64{10, 10, 10, 0.1}, []int{100, 100, 100, 1}, 0.1},
	} {
		ticks, tick := countTicks(c.delays)
		require.Equal(t, c.ticks, ticks, "%v", c.delays)
		require.InDelta(t, c.tick, tick, 1e-9)
	}
	// One glitch of many frames does not set the tick, and a frame of no duration to speak of has no tick.
	delays := make([]float64, 40)
	for i := range delays {
		delays[i] = 100
	}
	delays[7], delays[8] = 1, 199
	ticks, tick := countTicks(delays)
	require.InDelta(t, 100, tick, 0.1)
	require.Equal(t, []int{1, 0, 2, 1}, ticks[6:10])
}

// A frame that is shown for a long time is kept as often as many equal frames are.
func TestSamplerOfLongFrames(t *testing.T) {
	for _, shown := range [][]int{{1, 1, 5000, 3}, {40, 1, 0, 2000}, {1 << 40, 1}, {1, 7, 1, 1}} {
		long := &frameSampler{bounds: bounds{MaxFrames: 100, MaxBytes: 1 << 20, LeastFrames: 8, LeastSide: 16}}
		short := &frameSampler{bounds: long.bounds}
		for i, n := range shown {
			require.NoError(t, long.addFor(n, 1, 1, []byte{byte(50 * i), 100, 200}))
			for range min(n, 1<<13) {
				require.NoError(t, short.add(1, 1, []byte{byte(50 * i), 100, 200}))
			}
		}
		got, err := long.clip()
		require.NoError(t, err)
		require.LessOrEqual(t, got.Frames.Shape[0], 102)
		if shown[0] < 1<<13 {
			want, err := short.clip()
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
}

// oneColour returns a picture of 4 x 2 pixels whose first pixel is white.
func oneColour(r byte) *image.Paletted {
	m := image.NewPaletted(image.Rect(0, 0, 4, 2), color.Palette{color.RGBA{r, 0, 0, 255}, color.White})
	m.Pix[0] = 1
	return m
}

func TestGIFDelays(t *testing.T) {
	show := func(delays ...int) Clip {
		g := &gif.GIF{}
		for i, d := range delays {
			g.Image, g.Delay = append(g.Image, oneColour(byte(10*i))), append(g.Delay, d)
		}
		var b bytes.Buffer
		require.NoError(t, gif.EncodeAll(&b, g))
		c, problem := open(t, putFile(t, filepath.Join(t.TempDir(), "a.gif"), b.Bytes()))
		require.Empty(t, problem)
		return c
	}
	c := show(10, 30, 10, 310)
	require.Equal(t, 36, c.Seen)
	require.Equal(t, "4 stored frames that are shown for different times: read as 36 at 10 per second", c.Note)
	require.Equal(t, byte(10), c.Frames.Data[3*8*3+3])
	require.Equal(t, 3, show(0, 1, 0).Seen)
	require.Equal(t, 4, show(0, 20, 10).Seen) // no delay is shown as a tenth of a second

	// The second for which our own animations hold the last frame is for the eye.
	var b bytes.Buffer
	require.NoError(t, EncodeGIF(&b, square(16), GIF{DelayMS: 100}))
	c, problem := open(t, putFile(t, filepath.Join(t.TempDir(), "own.gif"), b.Bytes()))
	require.Empty(t, problem)
	require.Equal(t, 16, c.Seen)
	require.Empty(t, c.Note)
}

// exif returns the content of an Exif block with an orientation.
func exif(order binary.AppendByteOrder, magic string, orientation uint16) []byte {
	b := order.AppendUint32(order.AppendUint16([]byte(magic), 42), 8)
	b = order.AppendUint16(b, 2)
	for _, entry := range [][2]uint16{{0x010f, 7}, {0x0112, orientation}} {
		b = order.AppendUint16(order.AppendUint16(b, entry[0]), 3)
		b = order.AppendUint32(b, 1)
		b = order.AppendUint16(order.AppendUint16(b, entry[1]), 0)
	}
	return order.AppendUint32(b, 0)
}

func TestExifOrientation(t *testing.T) {
	var j, p bytes.Buffer
	require.NoError(t, jpeg.Encode(&j, oneColour(9), nil))
	require.NoError(t, png.Encode(&p, oneColour(9)))
	inJPEG := func(exif []byte) []byte {
		body := append([]byte("Exif\x00\x00"), exif...)
		head := binary.BigEndian.AppendUint16([]byte{0xff, 0xd8, 0xff, 0xe1}, uint16(2+len(body)))
		return append(append(head, body...), j.Bytes()[2:]...)
	}
	inPNG := func(exif []byte) []byte {
		const end = 12 // the length of IEND
		chunk := append(binary.BigEndian.AppendUint32(nil, uint32(len(exif))), "eXIf"...)
		chunk = append(append(chunk, exif...), 0, 0, 0, 0)
		return append(append(bytes.Clone(p.Bytes()[:p.Len()-end]), chunk...), p.Bytes()[p.Len()-end:]...)
	}
	require.Equal(t, 1, exifOrientation(j.Bytes()))
	require.Equal(t, 1, exifOrientation(p.Bytes()))
	for want := range uint16(10) {
		expected := int(want)
		if want < 1 || want > 8 {
			expected = 1
		}
		require.Equal(t, expected, exifOrientation(inJPEG(exif(binary.BigEndian, "MM", want))))
		require.Equal(t, expected, exifOrientation(inPNG(exif(binary.LittleEndian, "II", want))))
	}
	whole := inJPEG(exif(binary.LittleEndian, "II", 6))
	for n := range whole { // a damaged file is no panic
		exifOrientation(whole[:n])
	}
	// A picture of 3 x 2 pixels, as it is shown with each orientation.
	stored := []byte{1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6}
	for orientation, want := range []string{"123456", "123456", "321654", "654321", "456123", "142536", "415263",
		"635241", "362514"} {
		h, w, out := upright(2, 3, stored, orientation)
		shown := ""
		for i := 0; i < len(out); i += 3 {
			shown += string('0' + rune(out[i]))
		}
		require.Equal(t, want, shown, "orientation %d", orientation)
		require.Equal(t, orientation >= 5, h == 3 && w == 2)
	}
}

func FuzzExif(f *testing.F) {
	f.Add([]byte("\xff\xd8\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01"))
	f.Add([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x08eXIfII*\x00\x08\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, data []byte) { exifOrientation(data) })
}
