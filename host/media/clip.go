// Package media reads and writes frames: GIF animations, NumPy arrays (.npy, .npz), folders of pictures, and,
// through a Python process, every video that FFmpeg decodes. A clip in memory is a uint8 tensor [T, H, W, 3].
package media

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// Bounds of a clip. A longer video is reduced to every k-th frame and its last one, where k is the smallest
// power of two that fits. When fewer than LeastFrames frames would remain (the length of V-JEPA 2's longest
// clips), the frames are halved in size instead, as long as their shorter side keeps LeastSide pixels. The
// clip's note reports both.
const (
	MaxFrames   = 1000
	MaxBytes    = 192 << 20
	LeastFrames = 64
	LeastSide   = 256
)

// Clip is a decoded video.
type Clip struct {
	// Frames are uint8 [T, H, W, 3], T >= 1.
	Frames plugins.Tensor
	// Seen is the number of frames of the video, each counted as long as it is shown (see [tickLength]). It is
	// larger than T when frames were left out.
	Seen int
	// Note describes what was left out or scaled down; empty: nothing was.
	Note string
}

// bounds are the bounds of a clip as decode/decode.py receives them. Tests use smaller ones.
type bounds struct {
	MaxFrames   int `json:"max_frames"`
	MaxBytes    int `json:"max_bytes"`
	LeastFrames int `json:"least_frames"`
	LeastSide   int `json:"least_side"`
}

var defaultBounds = bounds{MaxFrames, MaxBytes, LeastFrames, LeastSide}

// frameSampler keeps evenly spaced frames of a stream of unknown length in bounded memory. Thinner in
// decode/decode.py does the same.
type frameSampler struct {
	bounds
	kept          [][]byte
	height, width int // of the video
	halvings      int // of the frames that are kept
	stride, seen  int
	stored        int // frames, seen counts each as often as it is shown
	rate          float64
	last          []byte
}

// skipsNext reports whether the next frame will not be kept, so that it need not be decoded.
func (t *frameSampler) skipsNext() bool { return t.seen > 0 && t.seen%t.stride != 0 }

// add takes a frame, uint8 [H, W, 3], that is shown for one tick. The caller must not change it afterwards.
func (t *frameSampler) add(height, width int, rgb []byte) error {
	return t.addFor(1, height, width, rgb)
}

// addFor takes a frame that is shown for a number of ticks.
func (t *frameSampler) addFor(ticks, height, width int, rgb []byte) error {
	switch {
	case t.stored == 0:
		t.height, t.width, t.stride = height, width, 1
	case height != t.height || width != t.width:
		return invalid("its size changes: frame %d is %d x %d pixels, earlier ones %d x %d", t.stored+1, width, height,
			t.width, t.height)
	}
	size := height * width * 3
	if size == 0 {
		return invalid("the video has no pixels: frames of %d x %d", width, height)
	}
	if size > t.MaxBytes {
		return invalid("its frames are too large: %d x %d pixels", width, height)
	}
	t.stored++
	if ticks == 0 {
		return nil
	}
	for n := range t.halvings {
		rgb = halve(rgb, height>>n, width>>n)
	}
	end := t.seen + ticks
	for {
		at := (t.seen + t.stride - 1) / t.stride * t.stride
		if at >= end {
			break
		}
		rgb = t.makeRoom(rgb)
		if at%t.stride == 0 {
			t.kept = append(t.kept, rgb)
		}
		t.seen = at + 1
	}
	t.last, t.seen = rgb, end
	return nil
}

// makeRoom leaves out or halves kept frames until another one fits. It returns the frame, halved as they are.
func (t *frameSampler) makeRoom(rgb []byte) []byte {
	for len(t.kept) >= 2 {
		h, w := t.height>>t.halvings, t.width>>t.halvings
		full := (len(t.kept)+1)*h*w*3 > t.MaxBytes
		if full && len(t.kept) < 2*t.LeastFrames && min(h, w) >= 2*t.LeastSide {
			for i, f := range t.kept {
				t.kept[i] = halve(f, h, w)
			}
			rgb = halve(rgb, h, w)
			t.halvings++
			continue
		}
		if !full && len(t.kept) < t.MaxFrames {
			break
		}
		half := t.kept[:0]
		for i := 0; i < len(t.kept); i += 2 {
			half = append(half, t.kept[i])
		}
		clear(t.kept[len(half):])
		t.kept = half
		t.stride *= 2
	}
	return rgb
}

// halve averages each 2 x 2 pixels of a picture, uint8 [height, width, 3]. An odd last row or column is left out.
func halve(rgb []byte, height, width int) []byte {
	out := make([]byte, 0, height/2*(width/2)*3)
	for y := range height / 2 {
		a, b := rgb[2*y*width*3:], rgb[(2*y+1)*width*3:]
		for x := range width / 2 {
			for i := 6 * x; i < 6*x+3; i++ {
				out = append(out, byte((int(a[i])+int(a[i+3])+int(b[i])+int(b[i+3])+2)/4))
			}
		}
	}
	return out
}

func (t *frameSampler) clip() (Clip, error) {
	if t.seen == 0 {
		return Clip{}, invalid("the video is empty: it has no frame")
	}
	if (t.seen-1)%t.stride != 0 {
		t.kept = append(t.kept, t.last)
	}
	height, width := t.height>>t.halvings, t.width>>t.halvings
	data := make([]byte, 0, len(t.kept)*height*width*3)
	for i, f := range t.kept {
		data = append(data, f...)
		t.kept[i] = nil
	}
	return newClip(plugins.Bytes(data, len(t.kept), height, width, 3), origin{Seen: t.seen, Stride: t.stride,
		Stored: t.stored, Rate: t.rate, FullHeight: t.height, FullWidth: t.width})
}

// origin describes the video that a clip was made of. Decoder replies have the same fields.
type origin struct {
	// Seen is the number of ticks of the video, of which every Stride-th was taken.
	Seen   int `json:"seen"`
	Stride int `json:"stride"`
	// Stored is the number of stored frames and Rate that of ticks per second, if the frames are shown for different
	// times; otherwise Rate is 0.
	Stored int     `json:"stored"`
	Rate   float64 `json:"rate"`
	// FullHeight and FullWidth are the size of the video itself.
	FullHeight int `json:"full_height"`
	FullWidth  int `json:"full_width"`
}

// newClip makes a clip and its note. It refuses frames that carry no information.
func newClip(frames plugins.Tensor, video origin) (Clip, error) {
	c := Clip{Frames: frames, Seen: video.Seen}
	if color, ok := singleColour(frames.Data); ok {
		if color == [3]byte{} {
			return c, invalid("every frame is black")
		}
		return c, invalid("every frame is one colour, the same throughout")
	}
	var notes []string
	if video.Rate > 0 {
		notes = append(notes, fmt.Sprintf("%d stored frames that are shown for different times: read as %d at %.4g "+
			"per second", video.Stored, video.Seen, video.Rate))
	}
	if video.Stride > 1 {
		notes = append(notes, fmt.Sprintf("%d frames: every %s and the last one are used", video.Seen,
			ordinal(video.Stride)))
	}
	if frames.Shape[1] != video.FullHeight {
		notes = append(notes, fmt.Sprintf("its pictures of %d x %d pixels are scaled to %d x %d", video.FullWidth,
			video.FullHeight, frames.Shape[2], frames.Shape[1]))
	}
	if frames.Shape[0] == 1 {
		notes = append(notes, "a single frame: there is no progress to see")
	}
	c.Note = strings.Join(notes, "; ")
	return c, nil
}

func ordinal(n int) string {
	if n%10 == 2 && n%100 != 12 {
		return fmt.Sprintf("%dnd", n)
	}
	return fmt.Sprintf("%dth", n)
}

// singleColour reports whether all pixels are alike, up to what compression does to black.
func singleColour(data []byte) ([3]byte, bool) {
	const noise = 3
	low, high := [3]byte{255, 255, 255}, [3]byte{}
	for i := 0; i+2 < len(data); i += 3 {
		for c := range 3 {
			low[c], high[c] = min(low[c], data[i+c]), max(high[c], data[i+c])
			if high[c]-low[c] > noise {
				return low, false
			}
		}
	}
	if high[0] <= noise && high[1] <= noise && high[2] <= noise {
		return [3]byte{}, true
	}
	return low, true
}

// Open decodes a video: a .gif, .npy or .npz file, a folder of pictures, or, through d, a format that FFmpeg (mp4 and
// the like) or Pillow (webp) decodes. A frame counts as long as it is shown. An error of kind Invalid describes what
// is wrong with this video only. Other kinds mean that ctx ended (Canceled), or that the decoder cannot be installed
// or started.
func Open(ctx context.Context, path string, d *Decoder) (Clip, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Clip{}, invalid("the video does not exist")
	}
	if info.IsDir() {
		return openPictures(ctx, path, d)
	}
	if info.Size() == 0 {
		return Clip{}, invalid("the file is empty")
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gif":
		return openGIF(path)
	case ".npy":
		return openNpy(path)
	case ".npz":
		return openNpz(path)
	}
	if !IsVideo(path) {
		return Clip{}, invalid("%q is not a kind of video that srpo reads; it reads %s and folders of png, jpeg "+
			"or webp",
			filepath.Ext(path), strings.Join(videoExtensions, ", "))
	}
	return d.decode(ctx, path, nil)
}

var videoExtensions = []string{".mp4", ".webp", ".gif", ".npz", ".npy", ".avi", ".mkv", ".mov", ".webm", ".m4v",
	".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".m2v", ".vob", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv",
	".apng", ".avif"}

func IsVideo(path string) bool {
	ext := strings.ToLower(filepath.Ext(path))
	for _, e := range videoExtensions {
		if e == ext {
			return true
		}
	}
	return false
}

// ReaderVersion changes whenever the same file may give other frames: with the readers of this package and with the
// libraries of the decoder.
var ReaderVersion = func() string {
	requirements, err := decodeFiles.ReadFile("decode/requirements.txt")
	if err != nil {
		panic(err) // it is embedded
	}
	program, err := decodeFiles.ReadFile("decode/decode.py")
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("4 %v %x", defaultBounds, sha256.Sum256(append(requirements, program...)))
}()
