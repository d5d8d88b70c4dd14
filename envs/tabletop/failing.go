package tabletop

import (
	"math"
	"math/rand/v2"
)

// Failure modes of the expert.
const (
	failMiss  = "miss"  // closes next to a block and continues with empty fingers
	failDrop  = "drop"  // drops a block halfway and continues with empty fingers
	failWrong = "wrong" // puts blocks on each other's plates, or a single block next to its plate
	failStall = "stall" // stops after it has lifted a block
)

var failures = []string{failMiss, failDrop, failWrong, failStall}

const (
	missOffset  = 0.055 // distance along y between a block's centre and the closing fingers of a miss [m]
	wrongOffset = 0.09  // distance along x between a single block's plate and where it is put down [m]
	jawSteps    = 4     // steps in which the jaw opens or closes
)

// failing is the expert in an episode that must fail. Unlike the expert it keeps state, so that it does
// not repair the failure.
type failing struct {
	mode          string
	block         int // that it fails with; the expert places the other one correctly
	startDistance float64
	phase         failPhase
	steps         int        // in this phase
	missAt        [2]float64 // where a miss closes the fingers
}

// failPhase is the phase of the motion after the failure.
type failPhase int

const (
	notFailed failPhase = iota
	hovering
	descending
	closing
	lifting
	carrying
	lowering
	resting
)

// newFailing draws the block to fail with.
func newFailing(mode string, w *world, rng *rand.Rand) *failing {
	return &failing{mode: mode, block: rng.IntN(w.n)}
}

func (f *failing) enter(p failPhase) { f.phase, f.steps = p, 0 }

// action returns the next action. first is the block that the expert prefers.
func (f *failing) action(w *world, first int) [4]float64 {
	f.steps++
	if f.mode == failWrong {
		return f.misplace(w, first)
	}
	if f.phase == notFailed {
		if a, ok := f.beforeFailure(w, first); ok {
			return a
		}
	}
	return f.afterFailure(w)
}

// beforeFailure returns the expert's action, or ok false when the failure begins.
func (f *failing) beforeFailure(w *world, first int) (action [4]float64, ok bool) {
	if w.n > 1 {
		other := 1 - f.block
		if !w.placed(other) && w.held != f.block {
			return w.expert(other), true
		}
		first = f.block
	}
	b, p := &w.blocks[f.block], w.layout.places[f.block]
	distance := math.Hypot(p[0]-b.pos[0], p[1]-b.pos[1])
	switch {
	case f.mode == failMiss:
		f.missAt = [2]float64{b.pos[0], b.pos[1] + missOffset}
		f.enter(hovering)
		return action, false
	case w.held != f.block:
		f.startDistance = distance
		return w.expert(first), true
	case f.mode == failStall && b.pos[2] > carryAbove-0.02:
		f.enter(resting)
		return action, false
	case f.mode == failDrop && distance < f.startDistance/2:
		f.enter(carrying)
		return action, false
	}
	return w.expert(first), true
}

// afterFailure returns the expert's motions without a block.
func (f *failing) afterFailure(w *world) [4]float64 {
	const open, shut = -1, 1
	height := carryAbove + graspAbove
	to := func(x, y, z, jaw float64) [4]float64 { return toward(x-w.grip[0], y-w.grip[1], z-w.grip[2], jaw) }
	near := func(x, y, z float64) bool {
		return math.Hypot(x-w.grip[0], y-w.grip[1]) < nearEnough && math.Abs(z-w.grip[2]) < nearEnough
	}
	place := w.layout.places[f.block]
	const maxSteps = 30 // per phase, in case the gripper is blocked
	switch f.phase {
	case hovering:
		if near(f.missAt[0], f.missAt[1], hoverAbove) || f.steps > maxSteps {
			f.enter(descending)
		}
		return to(f.missAt[0], f.missAt[1], hoverAbove, open)
	case descending:
		if near(f.missAt[0], f.missAt[1], graspAbove) || f.steps > maxSteps {
			f.enter(closing)
		}
		return to(f.missAt[0], f.missAt[1], graspAbove, open)
	case closing:
		if f.steps > jawSteps {
			f.enter(lifting)
		}
		return toward(0, 0, 0, shut)
	case lifting:
		if near(w.grip[0], w.grip[1], height) || f.steps > maxSteps {
			f.enter(carrying)
		}
		return to(w.grip[0], w.grip[1], height, shut)
	case carrying:
		if f.mode == failDrop && f.steps <= jawSteps {
			return toward(0, 0, 0, open)
		}
		if near(place[0], place[1], height) || f.steps > maxSteps {
			f.enter(lowering)
		}
		return to(place[0], place[1], height, shut)
	case lowering:
		low := plateHeight + graspAbove + releaseAbove
		if near(place[0], place[1], low) || f.steps > maxSteps {
			f.enter(resting)
		}
		return to(place[0], place[1], low, shut)
	}
	if f.mode == failStall {
		return toward(0, 0, 0, shut)
	}
	return toward(0, 0, 0, open)
}

// misplace returns the expert's action for a copy of the task with other plate positions.
func (f *failing) misplace(w *world, first int) [4]float64 {
	l := *w.layout
	if w.n > 1 {
		l.places[0], l.places[1] = l.places[1], l.places[0]
	} else if l.places[0][0] > 0 {
		l.places[0][0] -= wrongOffset
	} else {
		l.places[0][0] += wrongOffset
	}
	other := *w
	other.layout = &l
	if w.n == 1 && w.held < 0 && other.nearPlace() || other.success() {
		return toward(0, 0, 0, -1)
	}
	return other.expert(first)
}

// nearPlace reports whether the only block is within a plate's half width of its place, at any height.
func (w *world) nearPlace() bool {
	b, p := &w.blocks[0], w.layout.places[0]
	return math.Hypot(b.pos[0]-p[0], b.pos[1]-p[1]) <= plateHalf
}
