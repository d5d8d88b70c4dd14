package tabletop

import (
	"math"
	"math/rand/v2"
)

// Ways in which the expert can fail on purpose.
const (
	failMiss  = "miss"  // closes beside a block and goes on with empty fingers as if it held it
	failDrop  = "drop"  // lets a block fall half way, and goes on as if it held it
	failWrong = "wrong" // puts blocks on each other's places, or a single one beside its own
	failStall = "stall" // stops when it has lifted a block
)

var failures = []string{failMiss, failDrop, failWrong, failStall}

const (
	besideBlock = 0.055 // how far from a block's middle the fingers of a miss close, along the jaw's fingers [m]
	besidePlace = 0.09  // how far from its place a single block is put down [m]
	pause       = 4     // steps in which the jaw opens or closes
)

// failing is the expert in an episode that is to fail. It has a memory, unlike the expert itself: what went wrong stays wrong.
type failing struct {
	way   string
	block int // that it fails with; those before it are placed as they should be
	began float64
	phase mimicry
	steps int // in this phase
	from  [2]float64
}

// mimicry is how far an expert with empty fingers has come with what it pretends.
type mimicry int

const (
	honest mimicry = iota // it has not failed yet
	hovering
	descending
	closing
	lifting
	carrying
	lowering
	resting
)

// newFailing chooses the block to fail with by the episode's seed.
func newFailing(way string, w *world, rng *rand.Rand) *failing {
	return &failing{way: way, block: rng.IntN(w.n)}
}

func (f *failing) enter(p mimicry) { f.phase, f.steps = p, 0 }

// action is the next action; first is the block that the expert prefers.
func (f *failing) action(w *world, first int) [4]float64 {
	f.steps++
	if f.way == failWrong {
		return f.misplace(w, first)
	}
	if f.phase == honest {
		if a, ok := f.prelude(w, first); ok {
			return a
		}
	}
	return f.mimic(w)
}

// prelude is the honest part; ok is false when the failure begins.
func (f *failing) prelude(w *world, first int) (action [4]float64, ok bool) {
	// The blocks before the one to fail with, in the order in which the expert takes them.
	if w.n > 1 {
		other := 1 - f.block
		if !w.placed(other) && w.held != f.block {
			return w.expert(other), true
		}
		first = f.block
	}
	b, p := &w.blocks[f.block], w.layout.places[f.block]
	far := math.Hypot(p[0]-b.pos[0], p[1]-b.pos[1])
	switch {
	case f.way == failMiss:
		f.from = [2]float64{b.pos[0], b.pos[1] + besideBlock}
		f.enter(hovering)
		return action, false
	case w.held != f.block:
		f.began = far
		return w.expert(first), true
	case f.way == failStall && b.pos[2] > carryAbove-0.02:
		f.enter(resting)
		return action, false
	case f.way == failDrop && far < f.began/2:
		f.enter(carrying)
		return action, false
	}
	return w.expert(first), true
}

// mimic goes through the motions without a block.
func (f *failing) mimic(w *world) [4]float64 {
	const open, shut = -1, 1
	height := carryAbove + graspAbove
	to := func(x, y, z, jaw float64) [4]float64 { return toward(x-w.grip[0], y-w.grip[1], z-w.grip[2], jaw) }
	near := func(x, y, z float64) bool {
		return math.Hypot(x-w.grip[0], y-w.grip[1]) < nearEnough && math.Abs(z-w.grip[2]) < nearEnough
	}
	place := w.layout.places[f.block]
	// Each phase is bounded, so that nothing in its way keeps it from going on.
	const most = 30
	switch f.phase {
	case hovering:
		if near(f.from[0], f.from[1], hoverAbove) || f.steps > most {
			f.enter(descending)
		}
		return to(f.from[0], f.from[1], hoverAbove, open)
	case descending:
		if near(f.from[0], f.from[1], graspAbove) || f.steps > most {
			f.enter(closing)
		}
		return to(f.from[0], f.from[1], graspAbove, open)
	case closing:
		if f.steps > pause {
			f.enter(lifting)
		}
		return toward(0, 0, 0, shut)
	case lifting:
		if near(w.grip[0], w.grip[1], height) || f.steps > most {
			f.enter(carrying)
		}
		return to(w.grip[0], w.grip[1], height, shut)
	case carrying:
		if f.way == failDrop && f.steps <= pause {
			return toward(0, 0, 0, open)
		}
		if near(place[0], place[1], height) || f.steps > most {
			f.enter(lowering)
		}
		return to(place[0], place[1], height, shut)
	case lowering:
		low := plateHeight + graspAbove + letGo
		if near(place[0], place[1], low) || f.steps > most {
			f.enter(resting)
		}
		return to(place[0], place[1], low, shut)
	}
	if f.way == failStall {
		return toward(0, 0, 0, shut)
	}
	return toward(0, 0, 0, open)
}

// misplace is the expert of another task: one whose places are elsewhere.
func (f *failing) misplace(w *world, first int) [4]float64 {
	l := *w.layout
	if w.n > 1 {
		l.places[0], l.places[1] = l.places[1], l.places[0]
	} else if l.places[0][0] > 0 {
		l.places[0][0] -= besidePlace
	} else {
		l.places[0][0] += besidePlace
	}
	other := *w
	other.layout = &l
	if w.n == 1 && w.held < 0 && other.beside() || other.success() {
		return toward(0, 0, 0, -1)
	}
	return other.expert(first)
}

// beside says whether the single block lies near its place, at whatever height there is.
func (w *world) beside() bool {
	b, p := &w.blocks[0], w.layout.places[0]
	return math.Hypot(b.pos[0]-p[0], b.pos[1]-p[1]) <= plateHalf
}
