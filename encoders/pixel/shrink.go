package pixel

// shrinker averages frames of one size over the cells of a size x size grid. A pixel that lies in several cells
// counts in each by the share of its area, so that any height and width works, also one below size.
type shrinker struct {
	width, size, channels int
	rows, columns         []share
	line                  []float64 // one frame row, averaged along x: [size, channels]
}

// share says that a pixel gives weight to a cell.
type share struct {
	pixel, cell int
	weight      float64
}

// BT.601 luma.
const (
	lumaRed   = 0.299
	lumaGreen = 0.587
	lumaBlue  = 0.114
)

// unit is a byte's value from 0 to 1.
var unit = func() (u [256]float64) {
	for i := range u {
		u[i] = float64(i) / 255
	}
	return u
}()

func newShrinker(height, width, size int, gray bool) *shrinker {
	s := &shrinker{width: width, size: size, channels: 3, rows: shares(height, size), columns: shares(width, size)}
	if gray {
		s.channels = 1
	}
	s.line = make([]float64, size*s.channels)
	return s
}

// shares lists, pixel by pixel, which cells n pixels give to; the weights of each cell add up to 1. In units of
// 1/size of a pixel everything is a whole number.
func shares(n, size int) []share {
	out := make([]share, 0, n+size)
	for pixel := range n {
		from, to := pixel*size, (pixel+1)*size // cells are n long in these units
		for cell := from / n; cell < size && cell*n < to; cell++ {
			if overlap := min(to, (cell+1)*n) - max(from, cell*n); overlap > 0 {
				out = append(out, share{pixel, cell, float64(overlap) / float64(n)})
			}
		}
	}
	return out
}

// frame writes the cells' means, 0 to 1, of a uint8 [height, width, 3] frame to out, [size, size, channels].
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
