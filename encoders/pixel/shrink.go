package pixel

// shrinker averages frames of one size over the cells of a size x size grid. A pixel that overlaps several
// cells counts in each by the overlapping area, so the frame may have any height and width, also below
// size.
type shrinker struct {
	width, size, channels int
	rows, columns         []overlap
	line                  []float64 // a row of pixels, averaged along x: [size, channels]
}

// overlap is the weight of a pixel in the mean of a cell.
type overlap struct {
	pixel, cell int
	weight      float64
}

// Weights of ITU-R BT.601 luma.
const (
	lumaRed   = 0.299
	lumaGreen = 0.587
	lumaBlue  = 0.114
)

// unit maps a byte to a value from 0 to 1.
var unit = func() (u [256]float64) {
	for i := range u {
		u[i] = float64(i) / 255
	}
	return u
}()

func newShrinker(height, width, size int, gray bool) *shrinker {
	s := &shrinker{width: width, size: size, channels: 3, rows: overlaps(height, size), columns: overlaps(width, size)}
	if gray {
		s.channels = 1
	}
	s.line = make([]float64, size*s.channels)
	return s
}

// overlaps returns the overlaps of n pixels with size cells, ordered by pixel. The weights of each cell add
// up to 1. Positions are multiples of 1/size of a pixel, which makes them integers.
func overlaps(n, size int) []overlap {
	out := make([]overlap, 0, n+size)
	for pixel := range n {
		from, to := pixel*size, (pixel+1)*size // cells are n long in these units
		for cell := from / n; cell < size && cell*n < to; cell++ {
			if common := min(to, (cell+1)*n) - max(from, cell*n); common > 0 {
				out = append(out, overlap{pixel, cell, float64(common) / float64(n)})
			}
		}
	}
	return out
}

// frame averages a frame, uint8 [height, width, 3], and writes the means, 0 to 1, to out, [size, size,
// channels].
func (s *shrinker) frame(pixels []byte, out []float64) {
	clear(out)
	last := -1
	for _, r := range s.rows {
		if r.pixel != last {
			s.average(pixels[r.pixel*s.width*3 : (r.pixel+1)*s.width*3])
			last = r.pixel
		}
		to := out[r.cell*len(s.line) : (r.cell+1)*len(s.line)]
		for i, x := range s.line {
			to[i] += r.weight * x
		}
	}
}

// average averages a row of pixels along x and writes the result to s.line.
func (s *shrinker) average(row []byte) {
	clear(s.line)
	for _, c := range s.columns {
		p := row[3*c.pixel : 3*c.pixel+3]
		if s.channels == 1 {
			s.line[c.cell] += c.weight * (lumaRed*unit[p[0]] + lumaGreen*unit[p[1]] + lumaBlue*unit[p[2]])
			continue
		}
		to := s.line[3*c.cell : 3*c.cell+3]
		to[0] += c.weight * unit[p[0]]
		to[1] += c.weight * unit[p[1]]
		to[2] += c.weight * unit[p[2]]
	}
}
