package tabletop

import "math"

// vec is a point or a direction in the world's coordinates.
type vec struct{ x, y, z float64 }

func (a vec) add(b vec) vec             { return vec{a.x + b.x, a.y + b.y, a.z + b.z} }
func (a vec) sub(b vec) vec             { return vec{a.x - b.x, a.y - b.y, a.z - b.z} }
func (a vec) times(s float64) vec       { return vec{a.x * s, a.y * s, a.z * s} }
func (a vec) dot(b vec) float64         { return a.x*b.x + a.y*b.y + a.z*b.z }
func (a vec) length() float64           { return math.Sqrt(a.dot(a)) }
func (a vec) unit() vec                 { return a.times(1 / a.length()) }
func (a vec) cross(b vec) vec           { return vec{a.y*b.z - a.z*b.y, a.z*b.x - a.x*b.z, a.x*b.y - a.y*b.x} }
func (a vec) plus(s float64, b vec) vec { return vec{a.x + s*b.x, a.y + s*b.y, a.z + s*b.z} }

// camera is a pinhole camera. The shorter side of its image spans 2/zoom of the distance.
type camera struct {
	at, right, up, ahead vec
	zoom                 float64
}

// newCamera returns a camera at a point that looks at target with a horizontal right axis.
func newCamera(at, target vec, zoom float64) camera {
	ahead := target.sub(at).unit()
	right := ahead.cross(vec{0, 0, 1}).unit()
	return camera{at, right, right.cross(ahead), ahead, zoom}
}

// samples is the number of samples along each side of a pixel. It smooths edges and makes shifts of a
// fraction of a pixel visible to a policy.
const samples = 2

// canvas is an image in progress, at sample resolution. Colours are 0x00bbggrr; depth is 1/distance
// (larger is nearer).
type canvas struct {
	cam           camera
	width, height int
	colour        []uint32
	depth         []float32
	scale, cx, cy float64
}

func newCanvas(cam camera, width, height int) *canvas {
	w, h := width*samples, height*samples
	return &canvas{cam: cam, width: w, height: h, colour: make([]uint32, w*h), depth: make([]float32, w*h),
		scale: cam.zoom * float64(min(w, h)) / 2, cx: float64(w) / 2, cy: float64(h) / 2}
}

// dot is a projected point: sample coordinates and 1/distance.
type dot struct{ x, y, near float64 }

func (c *canvas) project(p vec) dot {
	d := p.sub(c.cam.at)
	near := 1 / max(d.dot(c.cam.ahead), 0.05)
	return dot{c.cx + c.scale*near*d.dot(c.cam.right), c.cy - c.scale*near*d.dot(c.cam.up), near}
}

// colour is red, green, blue from 0 to 1.
type colour [3]float64

func (k colour) times(s float64) colour { return colour{k[0] * s, k[1] * s, k[2] * s} }

// pack returns 0x00bbggrr.
func (k colour) pack() uint32 {
	b := func(v float64) uint32 { return uint32(min(max(v, 0), 1)*255 + 0.5) }
	return b(k[0]) | b(k[1])<<8 | b(k[2])<<16
}

// lamp is the direction to the lamp: to the left, above and in front of the table.
var lamp = vec{-0.45, -0.55, 0.85}.unit()

// face draws a flat convex polygon of at most 12 corners with outward normal n, unless it faces away from
// the camera.
func (c *canvas) face(corners []vec, n vec, k colour) {
	if n.dot(corners[0].sub(c.cam.at)) >= 0 {
		return
	}
	light := 0.52 + 0.48*max(n.dot(lamp), 0) + 0.06*n.z
	c.polygon(corners, k.times(light).pack(), 256)
}

// polygon fills a flat convex polygon of at most 12 corners with colour k. opacity is 0 to 256; below 256
// it blends the colour in and does not change the depth.
func (c *canvas) polygon(corners []vec, k uint32, opacity uint32) {
	var p [12]dot
	low, high := math.Inf(1), math.Inf(-1)
	for i, v := range corners {
		p[i] = c.project(v)
		low, high = min(low, p[i].y), max(high, p[i].y)
	}
	n := len(corners)
	// 1/distance is linear on the screen. Compute its slopes from the three corners that span the largest
	// area.
	var gx, gy, best float64
	for i := 1; i+1 < n; i++ {
		ax, ay, an := p[i].x-p[0].x, p[i].y-p[0].y, p[i].near-p[0].near
		bx, by, bn := p[i+1].x-p[0].x, p[i+1].y-p[0].y, p[i+1].near-p[0].near
		if det := ax*by - ay*bx; math.Abs(det) > math.Abs(best) {
			best = det
			gx, gy = (an*by-bn*ay)/det, (ax*bn-bx*an)/det
		}
	}
	if math.Abs(best) < 1e-9 {
		return
	}
	for y := max(0, int(math.Ceil(low-0.5))); y < c.height && float64(y)+0.5 < high; y++ {
		row := float64(y) + 0.5
		left, right := math.Inf(1), math.Inf(-1)
		for i := range n {
			a, b := &p[i], &p[0]
			if i+1 < n {
				b = &p[i+1]
			}
			if (a.y <= row) == (b.y <= row) {
				continue
			}
			x := a.x + (row-a.y)*(b.x-a.x)/(b.y-a.y)
			left, right = min(left, x), max(right, x)
		}
		from, to := max(0, int(math.Ceil(left-0.5))), min(c.width, int(math.Ceil(right-0.5)))
		if !(left <= right) || from >= to {
			continue
		}
		near := float32(p[0].near + gx*(float64(from)+0.5-p[0].x) + gy*(row-p[0].y))
		slope := float32(gx)
		depth, colours := c.depth[y*c.width+from:y*c.width+to], c.colour[y*c.width+from:y*c.width+to]
		for i := range depth {
			if near > depth[i] {
				if opacity >= 256 {
					depth[i], colours[i] = near, k
				} else {
					colours[i] = mix(colours[i], k, opacity)
				}
			}
			near += slope
		}
	}
}

// mix blends b into a, both 0x00bbggrr.
func mix(a, b, opacity uint32) uint32 {
	keep := 256 - opacity
	rb := ((a&0xff00ff)*keep + (b&0xff00ff)*opacity) >> 8 & 0xff00ff
	g := ((a&0x00ff00)*keep + (b&0x00ff00)*opacity) >> 8 & 0x00ff00
	return rb | g
}

// cuboid draws a box with the given centre and half-edges. The half-edges must be perpendicular.
func (c *canvas) cuboid(at, a, b, d vec, k colour) {
	edges := [3]vec{a, b, d}
	for i, e := range edges {
		u, v := edges[(i+1)%3], edges[(i+2)%3]
		for _, s := range [2]float64{-1, 1} {
			m := at.plus(s, e)
			c.face([]vec{m.add(u).add(v), m.sub(u).add(v), m.sub(u).sub(v), m.add(u).sub(v)}, e.times(s/e.length()),
				k)
		}
	}
}

// upright draws an axis-aligned box.
func (c *canvas) upright(b box, k colour) {
	mid := vec{(b.low[0] + b.high[0]) / 2, (b.low[1] + b.high[1]) / 2, (b.low[2] + b.high[2]) / 2}
	c.cuboid(mid, vec{b.high[0] - mid.x, 0, 0}, vec{0, b.high[1] - mid.y, 0}, vec{0, 0, b.high[2] - mid.z}, k)
}

// sides is the number of sides of a tube.
const sides = 8

// turn contains cosine and sine of the corners of a tube.
var turn = func() (t [sides][2]float64) {
	for i := range t {
		t[i][1], t[i][0] = math.Sincos(2 * math.Pi * (float64(i) + 0.5) / sides)
	}
	return t
}()

// tube draws an eight-sided rod from a (radius ra) to b (radius rb).
func (c *canvas) tube(a, b vec, ra, rb float64, k colour) {
	axis := b.sub(a).unit()
	side := vec{1, 0, 0}
	if math.Abs(axis.x) > 0.9 {
		side = vec{0, 1, 0}
	}
	u := axis.cross(side).unit()
	v := axis.cross(u)
	var near, far [sides]vec
	for i, t := range turn {
		d := u.times(t[0]).plus(t[1], v)
		near[i], far[i] = a.plus(ra, d), b.plus(rb, d)
	}
	for i := range turn {
		j := (i + 1) % sides
		n := u.times(turn[i][0]+turn[j][0]).plus(turn[i][1]+turn[j][1], v).unit()
		c.face([]vec{near[i], near[j], far[j], far[i]}, n, k)
	}
	c.face(near[:], axis.times(-1), k)
	c.face(far[:], axis, k)
}

// shade darkens an ellipse with radii rx and ry at height at.z: a soft shadow of three rings.
func (c *canvas) shade(at vec, rx, ry float64, opacity uint32) {
	for _, ring := range [3]float64{1, 0.8, 0.6} {
		var p [sides]vec
		for i, t := range turn {
			p[i] = vec{at.x + ring*rx*t[0], at.y + ring*ry*t[1], at.z}
		}
		c.polygon(p[:], 0x201818, opacity/3)
	}
}

// write averages the samples into out, uint8 [height, width, 3].
func (c *canvas) write(out []byte) {
	i := 0
	for y := 0; y < c.height; y += samples {
		top, bottom := c.colour[y*c.width:(y+1)*c.width], c.colour[(y+1)*c.width:(y+2)*c.width]
		bottom = bottom[:len(top)]
		for x := 0; x+1 < len(top); x += samples {
			const odd = 0xff00ff
			rb := top[x]&odd + top[x+1]&odd + bottom[x]&odd + bottom[x+1]&odd
			g := top[x]>>8&0xff + top[x+1]>>8&0xff + bottom[x]>>8&0xff + bottom[x+1]>>8&0xff
			o := out[i : i+3 : i+3]
			o[0], o[1], o[2] = byte((rb&0xffff+2)>>2), byte((g+2)>>2), byte((rb>>16+2)>>2)
			i += 3
		}
	}
}
