package media

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// square draws the clip of testdata/make_videos.py: n frames of 48 x 32 pixels with a square that moves to the right.
func square(n int) plugins.Tensor {
	data := make([]byte, 0, n*32*48*3)
	for t := range n {
		for y := range 32 {
			for x := range 48 {
				c := []byte{40, 60, 80}
				if y >= 8 && y < 16 && x >= 2*t && x < 2*t+8 {
					c = []byte{200, 80, 40}
				}
				data = append(data, c...)
			}
		}
	}
	return plugins.Bytes(data, n, 32, 48, 3)
}

func picture(frames plugins.Tensor, t int) image.Image {
	h, w := frames.Shape[1], frames.Shape[2]
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range h * w {
		copy(m.Pix[4*i:], frames.Data[(t*h*w+i)*3:(t*h*w+i)*3+3])
		m.Pix[4*i+3] = 255
	}
	return m
}

// apart returns the mean absolute difference of two clips of the same shape.
func apart(t *testing.T, a, b plugins.Tensor) float64 {
	require.Equal(t, a.Shape, b.Shape)
	sum := 0.0
	for i := range a.Data {
		d := float64(a.Data[i]) - float64(b.Data[i])
		sum += max(d, -d)
	}
	return sum / float64(len(a.Data))
}

func open(t *testing.T, path string) (Clip, string) {
	t.Helper()
	c, err := Open(context.Background(), path, nil)
	if err != nil {
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), err)
		return c, plugins.AsError(err).Message
	}
	return c, ""
}

func putFile(t *testing.T, path string, data []byte) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

func npy(frames plugins.Tensor) []byte { return append(uint8Header(frames.Shape), frames.Data...) }

func TestSameFramesFromEveryFormat(t *testing.T) {
	dir := t.TempDir()
	want := square(16)
	var npz bytes.Buffer
	require.NoError(t, EncodeNPZ(&npz, "frames", want))
	putFile(t, filepath.Join(dir, "a.npy"), npy(want))
	putFile(t, filepath.Join(dir, "a.npz"), npz.Bytes())
	for i := range 16 {
		var p, j bytes.Buffer
		require.NoError(t, png.Encode(&p, picture(want, i)))
		require.NoError(t, jpeg.Encode(&j, picture(want, i), &jpeg.Options{Quality: 98}))
		putFile(t, filepath.Join(dir, "png", "frame"+string(rune('0'+i/10))+string(rune('0'+i%10))+".png"), p.Bytes())
		putFile(t, filepath.Join(dir, "jpg", strings.TrimPrefix("frame "+itoa(i)+".JPG", "x")),
			j.Bytes()) // 10 sorts after 9
	}
	putFile(t, filepath.Join(dir, "jpg", "notes.txt"), []byte("x"))
	for name, tolerance := range map[string]float64{"a.npy": 0, "a.npz": 0, "png": 0, "jpg": 3,
		"testdata/square.gif": 1} {
		path := filepath.Join(dir, name)
		if strings.HasPrefix(name, "testdata") {
			path = name
		}
		c, problem := open(t, path)
		require.Empty(t, problem, name)
		require.LessOrEqual(t, apart(t, want, c.Frames), tolerance, name)
		require.Equal(t, 16, c.Seen)
		require.Empty(t, c.Note)
	}
}

func itoa(n int) string {
	if n >= 10 {
		return "1" + string(rune('0'+n-10))
	}
	return string(rune('0' + n))
}

func TestWhatIsWrongWithAVideo(t *testing.T) {
	dir := t.TempDir()
	whole := npy(square(4))
	var changing bytes.Buffer
	require.NoError(t, png.Encode(&changing, picture(square(1), 0)))
	putFile(t, filepath.Join(dir, "sizes", "1.png"), changing.Bytes())
	changing.Reset()
	require.NoError(t, png.Encode(&changing, image.NewRGBA(image.Rect(0, 0, 9, 9))))
	putFile(t, filepath.Join(dir, "sizes", "2.png"), changing.Bytes())
	putFile(t, filepath.Join(dir, "broken", "1.png"), changing.Bytes()[:20])
	putFile(t, filepath.Join(dir, "nothing", "readme"), []byte("x"))

	archive := func(names ...string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, n := range names {
			f, err := z.Create(n)
			require.NoError(t, err)
			_, err = f.Write(whole)
			require.NoError(t, err)
		}
		require.NoError(t, z.Close())
		return b.Bytes()
	}
	var npz bytes.Buffer
	require.NoError(t, EncodeNPZ(&npz, "frames", square(4)))
	damaged := bytes.Clone(npz.Bytes())
	damaged[len(damaged)/4] ^= 0x55
	gray := append(uint8Header([]int{4, 2, 2, 1}), make([]byte, 16)...)
	floats := bytes.Replace(bytes.Clone(whole), []byte("|u1"), []byte("<f4"), 1)
	g, err := os.ReadFile("testdata/square.gif")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"gone.npz":    {nil, "the video does not exist"},
		"empty.gif":   {[]byte{}, "the file is empty"},
		"noframe.npy": {npy(plugins.Bytes(nil, 0, 4, 4, 3)), "the video is empty: it has no frame"},
		"nopixel.npy": {npy(plugins.Bytes(nil, 4, 0, 4, 3)), "no pixels: 4 x 0 x 4 x 3"},
		"short.npy":   {whole[:len(whole)-5], "the array ends at frame 4 of 4"},
		"header.npy":  {whole[:20], "ends in its header"},
		"text.npy":    {[]byte("hello world"), "not a .npy array"},
		"gray.npy":    {gray, "shape 4 x 2 x 2 x 1, not frames x height x width x 3"},
		"floats.npy":  {floats, `numbers are "<f4", not uint8`},
		"black.npy":   {npy(plugins.Bytes(make([]byte, 4*4*4*3), 4, 4, 4, 3)), "every frame is black"},
		"grey.npy": {npy(plugins.Bytes(bytes.Repeat([]byte{128}, 4*4*4*3), 4, 4, 4, 3)),
			"every frame is one colour"},
		"huge.npy":      {uint8Header([]int{2, 70000, 70000, 3}), "too large"},
		"endless.npy":   {uint8Header([]int{1 << 40, 8, 8, 3}), "the array ends at frame 1 of"},
		"text.npz":      {[]byte("hello"), "not an .npz file"},
		"damaged.npz":   {damaged, ""},
		"truncated.npz": {npz.Bytes()[:npz.Len()/2], "not an .npz file"},
		"none.npz":      {archive("readme"), "contains no array"},
		"two.npz":       {archive("left.npy", "right.npy"), "contains left, right; the video must be called frames"},
		"truncated.gif": {g[:len(g)/2], "does not decode"},
		"text.gif":      {[]byte("hello"), "does not decode"},
		"other.pdf":     {[]byte("hello"), `".pdf" is not a kind of video`},
		"no.mp4":        {[]byte("hello"), "no decoder for this kind"},
	} {
		path := filepath.Join(dir, name)
		if c.data != nil {
			putFile(t, path, c.data)
		}
		_, problem := open(t, path)
		require.NotEmpty(t, problem, name)
		require.Contains(t, problem, c.want, name)
	}
	for name, want := range map[string]string{"sizes": "its size changes: frame 2 is 9 x 9 pixels, earlier ones 48 x " +
		"32", "broken": "1.png does not decode", "nothing": "no png or jpeg"} {
		_, problem := open(t, filepath.Join(dir, name))
		require.Contains(t, problem, want)
	}
}

func TestOneFrameAndMany(t *testing.T) {
	dir := t.TempDir()
	c, problem := open(t, putFile(t, filepath.Join(dir, "one.npy"), npy(square(1))))
	require.Empty(t, problem)
	require.Equal(t, []int{1, 32, 48, 3}, c.Frames.Shape)
	require.Equal(t, "a single frame: there is no progress to see", c.Note)

	// Of 10,000 frames evenly spaced ones are used, and the note says so.
	const n = 10000
	data := make([]byte, 0, n*12)
	for i := range n {
		data = append(data, byte(i), byte(i>>8), 0, 0, 0, 0, 0, 0, 0, 255, 255, 255)
	}
	c, problem = open(t, putFile(t, filepath.Join(dir, "long.npy"), append(uint8Header([]int{n, 2, 2, 3}), data...)))
	require.Empty(t, problem)
	require.Equal(t, n, c.Seen)
	require.Equal(t, 626, c.Frames.Shape[0])
	require.Equal(t, "10000 frames: every 16th and the last one are used", c.Note)
	at := func(k int) int { return int(c.Frames.Data[12*k]) | int(c.Frames.Data[12*k+1])<<8 }
	require.Equal(t, []int{0, 16, 32}, []int{at(0), at(1), at(2)})
	require.Equal(t, []int{9984, 9999}, []int{at(624), at(625)})
	// At the bound nothing is left out.
	c, problem = open(t, putFile(t, filepath.Join(dir, "bound.npy"), append(uint8Header([]int{MaxFrames, 2, 2, 3}),
		data[:MaxFrames*12]...)))
	require.Empty(t, problem)
	require.Equal(t, MaxFrames, c.Frames.Shape[0])
	require.Empty(t, c.Note)
}

// When only a few frames of a large video fit, its pictures are halved before more frames are left out: an
// encoder that wants 64 frames would otherwise repeat the few.
func TestLargePicturesAreHalved(t *testing.T) {
	for _, c := range []struct {
		frames, height, width, stride int
		shape                         []int
	}{
		{4, 32, 48, 1, []int{4, 32, 48, 3}}, // they fit
		{5, 32, 48, 1, []int{5, 16, 24, 3}},
		{16, 33, 49, 1, []int{16, 16, 24, 3}}, // odd ones lose a row
		{17, 32, 48, 2, []int{9, 16, 24, 3}},  // enough are left when every other one goes
		{16, 64, 96, 1, []int{16, 16, 24, 3}}, // two times
		{16, 30, 51, 4, []int{5, 30, 51, 3}},  // too small to be halved
	} {
		th := &frameSampler{
			bounds: bounds{MaxFrames: 1000, MaxBytes: 16 * 16 * 24 * 3, LeastFrames: 8, LeastSide: 16},
		}
		for k := range c.frames {
			picture := make([]byte, c.height*c.width*3)
			for i := range picture {
				picture[i] = byte(k + i/3%c.width)
			}
			require.NoError(t, th.add(c.height, c.width, picture))
		}
		clip, err := th.clip()
		require.NoError(t, err)
		require.Equal(t, c.shape, clip.Frames.Shape, "%v", c)
		require.Equal(t, c.stride, th.stride)
		require.Equal(t, c.frames, clip.Seen)
		if c.shape[1] == c.height {
			continue
		}
		require.Contains(t, clip.Note, fmt.Sprintf("its pictures of %d x %d pixels are scaled to 24 x 16",
			c.width, c.height))
		size, shrunk := len(clip.Frames.Data)/c.shape[0], c.height/c.shape[1]
		for k := range c.shape[0] - 1 {
			// Columns rise by 1, so the mean of 2 is half a step above the left one, rounded up.
			require.Equal(t, byte(k*c.stride+5*shrunk)+byte(shrunk/2), clip.Frames.Data[k*size+15], "%v", c)
		}
	}
}

// Frames are composed over each other, and their disposal methods are followed.
func TestGIFDisposal(t *testing.T) {
	pal := color.Palette{color.RGBA{0, 0, 0, 255}, color.RGBA{255, 0, 0, 255}, color.RGBA{0, 255, 0, 255},
		color.RGBA{}}
	at := func(box image.Rectangle, c uint8) *image.Paletted {
		m := image.NewPaletted(box, pal)
		for i := range m.Pix {
			m.Pix[i] = c
		}
		return m
	}
	all := image.Rect(0, 0, 4, 1)
	g := &gif.GIF{Config: image.Config{ColorModel: pal, Width: 4, Height: 1}, Delay: []int{1, 1, 1, 1},
		Image: []*image.Paletted{at(all, 1), at(image.Rect(0, 0, 1, 1), 2), at(image.Rect(1, 0, 2, 1), 2),
			at(image.Rect(3, 0, 4, 1), 3)},
		Disposal: []byte{gif.DisposalNone, gif.DisposalPrevious, gif.DisposalBackground, gif.DisposalNone}}
	var b bytes.Buffer
	require.NoError(t, gif.EncodeAll(&b, g))
	c, problem := open(t, putFile(t, filepath.Join(t.TempDir(), "a.gif"), b.Bytes()))
	require.Empty(t, problem)
	r, gr, bl := []byte{255, 0, 0}, []byte{0, 255, 0}, []byte{0, 0, 0}
	want := bytes.Join([][]byte{r, r, r, r, gr, r, r, r, r, gr, r, r, r, bl, r, r}, nil)
	require.Equal(t, want, c.Frames.Data)
	n, pixels := gifSize(b.Bytes())
	require.Equal(t, []int{4, 7}, []int{n, pixels})
}

func TestNaturalOrder(t *testing.T) {
	list := []string{"a1b2", "a1b10", "a2", "a010", "a10", "b", "frame", "frame1"}
	for i := range list {
		for j := range list {
			require.Equal(t, i < j, NaturalLess(list[i], list[j]), "%s %s", list[i], list[j])
		}
	}
}

func FuzzNpy(f *testing.F) {
	f.Add(npy(square(2)))
	f.Add([]byte("\x93NUMPY\x02\x00\x10\x00\x00\x00{'shape': (1,2)}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.npy")
		if os.WriteFile(path, data, 0o644) != nil {
			t.Skip()
		}
		c, err := openNpy(path)
		if err == nil && c.Frames.Check("clip", plugins.Uint8, -1, -1, -1, 3) != nil {
			t.Fatalf("%v", c.Frames.Shape)
		}
	})
}

// uint8Header returns the header of a uint8 array.
func uint8Header(shape []int) []byte {
	dims := make([]string, len(shape))
	for i, d := range shape {
		dims[i] = strconv.Itoa(d)
	}
	text := fmt.Sprintf("{'descr': '|u1', 'fortran_order': False, 'shape': (%s,), }", strings.Join(dims, ", "))
	for (10+len(text)+1)%64 != 0 {
		text += " "
	}
	text += "\n"
	head := append([]byte("\x93NUMPY\x01\x00"), 0, 0)
	binary.LittleEndian.PutUint16(head[8:], uint16(len(text)))
	return append(head, text...)
}
