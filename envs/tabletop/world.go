package tabletop

import "math"

// Sizes of the world, in metres. x points to the right, y away from the front camera towards the arm's
// base, and z up. The table's top is z = 0.
const (
	blockHalf   = 0.020 // half the side of a block
	blockHeight = 2 * blockHalf

	plateHalf   = 0.045 // half the side of a place
	plateHeight = 0.015 // a place is a low step: a block can be put but not pushed onto it

	fingerHalfX  = 0.006 // half a finger's thickness, along the jaw
	fingerHalfY  = 0.011 // half a finger's width
	fingerLength = 0.055

	stepSize = 0.04 // the gripper's motion in one step for an action of 1
	jawSpeed = 0.02 // change of the jaw's gap in one step for an action of 1

	substeps = 4
	rateHz   = 10.0
	gravity  = 9.81

	gripDepth   = 0.008 // minimum depth of the fingertips below a block's top edge for a grasp
	releasePlay = 0.003 // how far the jaw opens beyond a block's width before it releases the block

	// A block that hits the ground faster than calmImpact (a fall of 5 cm) moves sideways.
	calmImpact = 1.0  // m/s
	scatter    = 0.03 // m per m/s above calmImpact
	maxScatter = 0.04 // m

	touching = 1e-9 // boxes that overlap by at most this only touch
)

// The fingertips' reach. Seen from above, it is also the rim that keeps blocks on the table.
var (
	reachLow  = [3]float64{-0.22, -0.20, 0.005}
	reachHigh = [3]float64{0.22, 0.18, 0.26}
)

// block is a free or held block. pos is the centre of its bottom face in metres.
type block struct {
	pos [3]float64
	vz  float64 // vertical speed, m/s
}

// world is the physics of one lane: quasi-static pushing, a jaw, and blocks that fall. Nothing rotates.
// Lanes share no state, so a lane's future depends on its own past only.
type world struct {
	layout  *layout
	jawMax  float64        // gap of the open jaw [m]
	slack   float64        // maximum distance along y of a block's centre from the jaw's for a grasp [m]
	noise   func() float64 // random number from 0 to 1
	grip    [3]float64     // point between the fingertips [m]
	gap     float64        // between the fingers [m]
	n       int            // number of blocks
	blocks  [2]block
	held    int        // index of the held block, or -1
	holding [3]float64 // position of the held block relative to grip [m]
}

// box is an axis-aligned box.
type box struct{ low, high [3]float64 }

// overlaps reports whether the boxes overlap.
func (a *box) overlaps(b *box) bool {
	for k := range 3 {
		if a.high[k]-b.low[k] <= touching || b.high[k]-a.low[k] <= touching {
			return false
		}
	}
	return true
}

// overlapsXY reports whether the boxes overlap when seen from above.
func (a *box) overlapsXY(b *box) bool {
	for k := range 2 {
		if a.high[k]-b.low[k] <= touching || b.high[k]-a.low[k] <= touching {
			return false
		}
	}
	return true
}

func (b *block) box() box {
	p := b.pos
	return box{[3]float64{p[0] - blockHalf, p[1] - blockHalf, p[2]},
		[3]float64{p[0] + blockHalf, p[1] + blockHalf, p[2] + blockHeight}}
}

func (b *block) top() float64 { return b.pos[2] + blockHeight }

func plateBox(p [2]float64) box {
	return box{[3]float64{p[0] - plateHalf, p[1] - plateHalf, 0},
		[3]float64{p[0] + plateHalf, p[1] + plateHalf, plateHeight}}
}

// finger returns the box of the left (side -1) or right (side +1) finger.
func (w *world) finger(side float64) box {
	x := w.grip[0] + side*(w.gap/2+fingerHalfX)
	return box{[3]float64{x - fingerHalfX, w.grip[1] - fingerHalfY, w.grip[2]},
		[3]float64{x + fingerHalfX, w.grip[1] + fingerHalfY, w.grip[2] + fingerLength}}
}

// movers returns the n boxes that move with the gripper: the fingers and the held block.
func (w *world) movers() (m [3]box, n int) {
	m[0], m[1] = w.finger(-1), w.finger(+1)
	if w.held < 0 {
		return m, 2
	}
	m[2] = w.blocks[w.held].box()
	return m, 3
}

// step executes one action [dx, dy, dz, gripper], each in [-1, 1].
func (w *world) step(a [4]float64) {
	for range substeps {
		for k := range 2 {
			w.slide(k, a[k]*(stepSize/substeps))
		}
		w.lift(a[2] * (stepSize / substeps))
		w.jaw(-a[3] * (jawSpeed / substeps))
		for i := range w.n {
			if i != w.held {
				w.fall(i)
			}
		}
	}
}

// carry moves the held block with the gripper.
func (w *world) carry() {
	if w.held >= 0 {
		for k := range 3 {
			w.blocks[w.held].pos[k] = w.grip[k] + w.holding[k]
		}
	}
}

// slide moves the gripper by d along x or y and pushes blocks in its way. If something cannot be pushed,
// nothing moves.
func (w *world) slide(axis int, d float64) {
	grip, blocks := w.grip, w.blocks
	low, high := reachLow[axis], reachHigh[axis]
	if w.held >= 0 { // the held block must also stay within the rim
		low, high = low-min(w.holding[axis], 0), high-max(w.holding[axis], 0)
	}
	to := min(max(grip[axis]+d, low), high)
	if d = to - grip[axis]; d == 0 {
		return
	}
	w.grip[axis] = to
	w.carry()
	movers, n := w.movers()
	for m := range movers[:n] {
		if !w.clear(&movers[m], axis, d) {
			w.grip, w.blocks = grip, blocks
			return
		}
	}
}

// clear pushes free blocks out of the way of a box that has moved by d along axis. It returns false if
// something cannot be pushed.
func (w *world) clear(m *box, axis int, d float64) bool {
	for i := range w.layout.places[:w.n] {
		if p := plateBox(w.layout.places[i]); m.overlaps(&p) {
			return false
		}
	}
	for i := range w.n {
		b := w.blocks[i].box()
		if i == w.held || !m.overlaps(&b) {
			continue
		}
		by := m.high[axis] - b.low[axis]
		if d < 0 {
			by = m.low[axis] - b.high[axis]
		}
		// Limit the push to the box's motion, so that a block that overlapped before is not thrown across
		// the table.
		if by = math.Copysign(min(math.Abs(by), math.Abs(d)), d); !w.push(i, axis, by) {
			return false
		}
	}
	return true
}

// push shifts block i and the block behind it by d along axis. It returns false, and moves nothing, if
// the rim, a place or a held block is in the way.
func (w *world) push(i, axis int, d float64) bool {
	before := w.blocks
	b := &w.blocks[i]
	b.pos[axis] += d
	ok := b.pos[axis] >= reachLow[axis] && b.pos[axis] <= reachHigh[axis]
	mine := b.box()
	for k := range w.layout.places[:w.n] {
		p := plateBox(w.layout.places[k])
		ok = ok && !mine.overlaps(&p)
	}
	for j := range w.n {
		other := w.blocks[j].box()
		if !ok || j == i || !mine.overlaps(&other) {
			continue
		}
		by := mine.high[axis] - other.low[axis]
		if d < 0 {
			by = mine.low[axis] - other.high[axis]
		}
		ok = j != w.held && math.Abs(by) <= math.Abs(d)+touching && w.push(j, axis, by)
	}
	if !ok {
		w.blocks = before
	}
	return ok
}

// lift moves the gripper by d along z. It stops on top of anything under the fingers and the held block.
func (w *world) lift(d float64) {
	to := min(max(w.grip[2]+d, reachLow[2]), reachHigh[2])
	if d = to - w.grip[2]; d == 0 {
		return
	}
	if d < 0 {
		movers, n := w.movers()
		for m := range movers[:n] {
			d = max(d, min(0, w.ground(&movers[m])-movers[m].low[2]))
		}
	}
	w.grip[2] += d
	w.carry()
}

// ground returns the height of the highest surface under any part of m.
func (w *world) ground(m *box) float64 {
	z := 0.0
	for i := range w.layout.places[:w.n] {
		if p := plateBox(w.layout.places[i]); m.overlapsXY(&p) {
			z = max(z, plateHeight)
		}
	}
	for i := range w.n {
		if i == w.held {
			continue
		}
		if b := w.blocks[i].box(); m.overlapsXY(&b) && m.low[2] >= b.high[2]-1e-6 {
			z = max(z, b.high[2])
		}
	}
	return z
}

// jaw opens (d > 0) or closes the gripper by d metres.
func (w *world) jaw(d float64) {
	before := w.gap
	to := min(max(before+d, 0), w.jawMax)
	switch {
	case to < before:
		w.close(to)
	case to > before:
		w.open(to)
	}
}

func (w *world) close(to float64) {
	if w.held >= 0 {
		w.gap = max(to, 2*blockHalf)
		return
	}
	for i := range w.n {
		b := &w.blocks[i]
		dx, dy := b.pos[0]-w.grip[0], b.pos[1]-w.grip[1]
		between := math.Abs(dx) < w.gap/2 && math.Abs(dy) < blockHalf+fingerHalfY-touching &&
			w.grip[2] < b.top()-touching && w.grip[2]+fingerLength > b.pos[2]
		if !between {
			continue
		}
		if math.Abs(dx) <= to/2-blockHalf {
			continue // no finger touches it yet
		}
		if math.Abs(dy) > w.slack {
			// The jaw catches the block's edge: the block slips out, or blocks the jaw.
			if !w.push(i, 1, math.Copysign(blockHalf+fingerHalfY-math.Abs(dy), dy)) {
				return
			}
			continue
		}
		// The finger that touches first pushes the block to the centre.
		to = max(to, 2*blockHalf)
		if play := to/2 - blockHalf; math.Abs(dx) > play && !w.push(i, 0, math.Copysign(play, dx)-dx) {
			return
		}
		if to <= 2*blockHalf && b.top()-w.grip[2] >= gripDepth {
			w.held = i
			b.vz = 0
			for k := range 3 {
				w.holding[k] = b.pos[k] - w.grip[k]
			}
		}
	}
	w.gap = to
}

func (w *world) open(to float64) {
	before, blocks := w.gap, w.blocks
	w.gap = to
	if w.held >= 0 {
		if to <= 2*blockHalf+releasePlay {
			return
		}
		w.blocks[w.held].vz = 0
		w.held = -1
	}
	for _, side := range [2]float64{-1, 1} {
		f := w.finger(side)
		if !w.clear(&f, 0, side*(to-before)/2) {
			w.gap, w.blocks = before, blocks
			return
		}
	}
}

// fall lets gravity act on a free block for one substep.
func (w *world) fall(i int) {
	const dt = 1 / (rateHz * substeps)
	b := &w.blocks[i]
	floor := w.support(i)
	if b.pos[2] <= floor {
		b.pos[2], b.vz = floor, 0
		return
	}
	b.vz -= gravity * dt
	b.pos[2] += b.vz * dt
	if b.pos[2] > floor {
		return
	}
	impact := -b.vz
	b.pos[2], b.vz = floor, 0
	if impact > calmImpact {
		distance := min(scatter*(impact-calmImpact), maxScatter)
		sin, cos := math.Sincos(2 * math.Pi * w.noise())
		w.push(i, 0, distance*cos)
		w.push(i, 1, distance*sin)
	}
}

// support returns the height at which block i comes to rest. Only a surface under the block's centre
// supports it. If the block overlaps the side of a surface, support slides it off.
func (w *world) support(i int) float64 {
	b := &w.blocks[i]
	z := 0.0
	under := func(s *box) {
		mine := b.box()
		if !mine.overlapsXY(s) {
			return
		}
		// A surface that was lifted under the block within this substep supports it too.
		if s.high[2] <= b.pos[2]+stepSize/substeps+touching &&
			b.pos[0] >= s.low[0] && b.pos[0] <= s.high[0] && b.pos[1] >= s.low[1] && b.pos[1] <= s.high[1] {
			z = max(z, s.high[2])
			return
		}
		if !mine.overlaps(s) {
			return
		}
		// The block slides off in the shortest direction without a finger. If there is none, it stays.
		from, best := b.pos, math.Inf(1)
		to := from
		for k := range 2 {
			for _, d := range [2]float64{s.low[k] - mine.high[k], s.high[k] - mine.low[k]} {
				b.pos[k] = from[k] + d
				if math.Abs(d) < best && b.pos[k] >= reachLow[k] && b.pos[k] <= reachHigh[k] && !w.hitsGripper(i) {
					to, best = b.pos, math.Abs(d)
				}
				b.pos = from
			}
		}
		if b.pos = to; math.IsInf(best, 1) {
			z = max(z, b.pos[2])
		}
	}
	for k := range w.layout.places[:w.n] {
		p := plateBox(w.layout.places[k])
		under(&p)
	}
	for j := range w.n {
		if j != i {
			o := w.blocks[j].box()
			under(&o)
		}
	}
	return z
}

// hitsGripper reports whether free block i overlaps the fingers or the held block.
func (w *world) hitsGripper(i int) bool {
	b := w.blocks[i].box()
	movers, n := w.movers()
	for m := range movers[:n] {
		if b.overlaps(&movers[m]) {
			return true
		}
	}
	return false
}

// placed reports whether block i rests on its place.
func (w *world) placed(i int) bool {
	b, p := &w.blocks[i], w.layout.places[i]
	return i != w.held && b.vz == 0 && math.Abs(b.pos[2]-plateHeight) < 1e-6 &&
		math.Abs(b.pos[0]-p[0]) <= plateHalf && math.Abs(b.pos[1]-p[1]) <= plateHalf
}

// success reports whether all blocks are placed.
func (w *world) success() bool {
	for i := range w.n {
		if !w.placed(i) {
			return false
		}
	}
	return true
}

// progress returns the mean over the blocks of the share of five stages that the block has reached:
// approached, grasped, lifted, carried over its place, placed.
func (w *world) progress() float64 {
	sum := 0.0
	for i := range w.n {
		b, p := &w.blocks[i], w.layout.places[i]
		over := math.Abs(b.pos[0]-p[0]) <= plateHalf && math.Abs(b.pos[1]-p[1]) <= plateHalf
		switch {
		case w.placed(i):
			sum += 5
		case w.held == i && over:
			sum += 4
		case w.held == i && b.pos[2] > 0.02:
			sum += 3
		case w.held == i:
			sum += 2
		case w.held < 0 && math.Hypot(b.pos[0]-w.grip[0], b.pos[1]-w.grip[1]) < 0.03 && w.grip[2] < b.top():
			sum++
		}
	}
	return sum / float64(5*w.n)
}
