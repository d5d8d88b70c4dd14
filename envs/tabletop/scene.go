package tabletop

import "math"

// Position of the arm's shoulder, in metres. The links are long enough for every point within the
// gripper's reach.
var shoulder = vec{0, 0.36, 0.17}

// Sizes of the arm and the scenery, in metres.
const (
	linkLength  = 0.33
	wristAbove  = 0.165 // height of the wrist above the fingertips
	tableFront  = -0.27
	tableBack   = 0.45
	tableAside  = 0.30
	tableThick  = 0.03
	floorBelow  = -0.55
	wallBehind  = 1.2
	rimOutside  = blockHalf + 0.004
	rimHeight   = 0.008
	rimBreadth  = 0.010
	shadowLevel = 0.0008
)

var (
	frontCamera = newCamera(vec{0, -0.60, 0.56}, vec{0, 0.020, 0.030}, 2.75)

	wood      = colour{0.80, 0.70, 0.56}
	woodEdge  = colour{0.55, 0.44, 0.32}
	rimPaint  = colour{0.62, 0.52, 0.40}
	wall      = colour{0.66, 0.72, 0.76}
	floor     = colour{0.36, 0.38, 0.42}
	metal     = colour{0.90, 0.91, 0.93}
	joint     = colour{0.95, 0.55, 0.15}
	dark      = colour{0.22, 0.23, 0.27}
	fingertip = colour{0.10, 0.10, 0.12}

	blockPaint = [2]colour{{0.86, 0.13, 0.12}, {0.10, 0.28, 0.88}}
	platePaint = [2]colour{{0.98, 0.66, 0.62}, {0.60, 0.76, 1.00}}
	innerPaint = [2]colour{{0.93, 0.48, 0.45}, {0.42, 0.60, 0.97}}
)

// drawBackdrop draws everything in a task that never moves: room, table, rim, places and the arm's foot.
func drawBackdrop(c *canvas, l *layout) {
	for y := range c.height {
		for x := range c.width {
			k, near := room(c, (float64(x)+0.5-c.cx)/c.scale, (c.cy-float64(y)-0.5)/c.scale)
			c.colour[y*c.width+x], c.depth[y*c.width+x] = k.pack(), near
		}
	}
	c.upright(box{[3]float64{-tableAside, tableFront, -tableThick},
		[3]float64{tableAside, tableFront + 1e-3, -1e-4}}, woodEdge)
	x0, x1 := reachLow[0]-rimOutside, reachHigh[0]+rimOutside
	y0, y1 := reachLow[1]-rimOutside, reachHigh[1]+rimOutside
	c.upright(box{[3]float64{x0 - rimBreadth, y1, 0}, [3]float64{x1 + rimBreadth, y1 + rimBreadth, rimHeight}},
		rimPaint)
	c.upright(box{[3]float64{x0 - rimBreadth, y0, 0}, [3]float64{x0, y1, rimHeight}}, rimPaint)
	c.upright(box{[3]float64{x1, y0, 0}, [3]float64{x1 + rimBreadth, y1, rimHeight}}, rimPaint)
	c.upright(box{[3]float64{x0 - rimBreadth, y0 - rimBreadth, 0}, [3]float64{x1 + rimBreadth, y0, rimHeight}},
		rimPaint)
	for i := range l.n {
		p := l.places[i]
		c.shade(vec{p[0], p[1], shadowLevel}, plateHalf*1.5, plateHalf*1.5, 70)
		c.upright(plateBox(p), platePaint[i])
		const inner = plateHalf * 0.68
		top := plateHeight + 4e-4
		c.face([]vec{{p[0] - inner, p[1] - inner, top}, {p[0] + inner, p[1] - inner, top},
			{p[0] + inner, p[1] + inner, top}, {p[0] - inner, p[1] + inner, top}},
			vec{0, 0, 1}, innerPaint[i])
	}
	foot := vec{shoulder.x, shoulder.y, 0}
	c.shade(foot.plus(shadowLevel, vec{0, 0, 1}), 0.11, 0.11, 90)
	c.tube(foot, foot.add(vec{0, 0, 0.03}), 0.075, 0.07, dark)
	c.tube(foot.add(vec{0, 0, 0.03}), shoulder.sub(vec{0, 0, 0.03}), 0.048, 0.048, metal)
}

// room returns the colour and 1/distance where a ray from the camera hits the table top, floor or wall.
// right and up give its direction relative to the view direction.
func room(c *canvas, right, up float64) (colour, float32) {
	d := c.cam.ahead.plus(right, c.cam.right).plus(up, c.cam.up)
	at := c.cam.at
	if d.z < 0 {
		if p := at.plus(-at.z/d.z, d); math.Abs(p.x) <= tableAside && p.y >= tableFront && p.y <= tableBack {
			// Planks along x with a fine grain, brighter under the lamp.
			_, plank := math.Modf((p.y + 1) / 0.09)
			grain := 0.018 * math.Sin(160*p.y+4*math.Sin(9*p.x+math.Floor((p.y+1)/0.09)*2.4))
			light := 1.02 - 0.35*(p.x*p.x+p.y*p.y) + grain
			if plank < 0.03 {
				light -= 0.05
			}
			return wood.times(light), float32(1 / (-at.z / d.z))
		}
		if p := at.plus((floorBelow-at.z)/d.z, d); p.y < wallBehind {
			return floor.times(1.05 - 0.25*p.y), float32(1 / ((floorBelow - at.z) / d.z))
		}
	}
	t := (wallBehind - at.y) / d.y
	return wall.times(0.92 + 0.12*(at.z+t*d.z)), float32(1 / t)
}

// drawWorld draws everything that moves on a canvas with the backdrop.
func drawWorld(c *canvas, w *world) {
	under := w.surfaceBelow(w.grip[0], w.grip[1], w.grip[2], w.held)
	high := w.grip[2] - under
	// The gripper's shadow shows its height: it is directly below, and smaller and darker the lower the
	// gripper is.
	c.shade(vec{w.grip[0], w.grip[1], under + shadowLevel}, 0.040+0.10*high, 0.026+0.10*high,
		uint32(200-420*min(high, 0.25)))
	for i := range w.n {
		b := &w.blocks[i]
		level := w.surfaceBelow(b.pos[0], b.pos[1], b.pos[2], i)
		c.shade(vec{b.pos[0], b.pos[1], level + shadowLevel}, 1.7*blockHalf, 1.7*blockHalf, 110)
	}
	for i := range w.n {
		c.upright(w.blocks[i].box(), blockPaint[i])
	}
	w.drawArm(c)
}

// drawArm draws the arm and the gripper.
func (w *world) drawArm(c *canvas) {
	tip := vec{w.grip[0], w.grip[1], w.grip[2]}
	wrist := tip.add(vec{0, 0, wristAbove})
	to := wrist.sub(shoulder)
	half := min(to.length()/2, linkLength*0.999)
	along := to.unit()
	// Both links are in the vertical plane through shoulder and wrist, with the elbow up.
	aside := along.cross(vec{0, 0, 1}).unit()
	elbow := shoulder.plus(half, along).plus(math.Sqrt(linkLength*linkLength-half*half), aside.cross(along))

	c.tube(shoulder.plus(-0.05, aside), shoulder.plus(0.05, aside), 0.05, 0.05, joint)
	c.tube(shoulder, elbow, 0.042, 0.036, metal)
	c.tube(elbow.plus(-0.042, aside), elbow.plus(0.042, aside), 0.043, 0.043, joint)
	c.tube(elbow, wrist, 0.036, 0.028, metal)
	c.tube(wrist.plus(-0.034, aside), wrist.plus(0.034, aside), 0.034, 0.034, joint)
	c.tube(wrist, tip.add(vec{0, 0, 0.085}), 0.024, 0.024, metal)

	palm := tip.add(vec{0, 0, fingerLength + 0.015})
	c.cuboid(palm, vec{w.jawMax/2 + 2*fingerHalfX, 0, 0}, vec{0, 0.017, 0}, vec{0, 0, 0.016}, dark)
	for _, side := range [2]float64{-1, 1} {
		f := w.finger(side)
		f.high[2] = f.low[2] + fingerLength
		c.upright(f, dark)
		pad := f
		pad.high[2] = pad.low[2] + 0.016
		pad.low[0], pad.high[0] = pad.low[0]-5e-4, pad.high[0]+5e-4
		pad.low[1] -= 5e-4
		c.upright(pad, fingertip)
	}
}

// surfaceBelow returns the height of the surface under a point: table, place, or a block other than skip.
func (w *world) surfaceBelow(x, y, z float64, skip int) float64 {
	level := 0.0
	inside := func(p [2]float64, half float64) bool { return math.Abs(x-p[0]) <= half && math.Abs(y-p[1]) <= half }
	for i := range w.n {
		if inside(w.layout.places[i], plateHalf) {
			level = max(level, plateHeight)
		}
		if b := &w.blocks[i]; i != skip && b.top() <= z+1e-6 && inside([2]float64{b.pos[0], b.pos[1]}, blockHalf) {
			level = max(level, b.top())
		}
	}
	return level
}
