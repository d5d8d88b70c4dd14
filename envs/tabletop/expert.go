package tabletop

import "math"

// Heights of the scripted expert, in metres.
const (
	hoverAbove   = 0.10  // fingertips above a block's bottom before the descent
	graspAbove   = 0.012 // fingertips above a block's bottom when they close
	carryAbove   = 0.075 // bottom of a carried block
	nearEnough   = 0.008 // horizontal error at which the descent starts
	overPlate    = 0.022 // horizontal error at which the descent with a block continues
	maxAction    = 0.75  // largest action on an axis; below 1, so that noise can act in both directions
	releaseAbove = 0.008 // height of a block above its place at which the jaw opens
)

// expert returns the scripted expert's action [dx, dy, dz, gripper]. It depends on the state only, so the
// expert can take over an episode at any step and correct the effects of noise or of a policy. first is
// the block that it prefers when both remain.
func (w *world) expert(first int) [4]float64 {
	const open, shut = -1, 1
	if w.held >= 0 {
		b, p := &w.blocks[w.held], w.layout.places[w.held]
		dx, dy := p[0]-b.pos[0], p[1]-b.pos[1]
		switch far := math.Hypot(dx, dy); {
		case far > 0.03 && b.pos[2] < carryAbove-0.03:
			return toward(0, 0, carryAbove-b.pos[2], shut)
		case far > overPlate || far > nearEnough && b.pos[2] > carryAbove-0.015:
			return toward(dx, dy, carryAbove-b.pos[2], shut)
		case b.pos[2] > plateHeight+releaseAbove:
			return toward(dx, dy, plateHeight+releaseAbove/2-b.pos[2], shut)
		}
		return toward(0, 0, 0, open)
	}
	next := first
	if next >= w.n || w.placed(next) {
		next = 0
		for next < w.n-1 && w.placed(next) {
			next++
		}
	}
	b := &w.blocks[next]
	dx, dy := b.pos[0]-w.grip[0], b.pos[1]-w.grip[1]
	hover, down := b.pos[2]+hoverAbove-w.grip[2], b.pos[2]+graspAbove-w.grip[2]
	far := math.Hypot(dx, dy)
	// The descent continues within a funnel that depends on the tolerance, so that noise does not
	// interrupt it.
	inside := far < 0.8*w.slack
	switch {
	case inside && math.Abs(down) < 0.012:
		return toward(dx, dy, down, shut)
	case w.gap < w.jawMax-0.004 && w.grip[2] < b.top()+0.03:
		return toward(0, 0, 0, open)
	case inside && (far < nearEnough || hover > 0.015):
		return toward(dx, dy, down, open)
	case far > 0.03 && hover > 0.02:
		return toward(0, 0, hover, open)
	}
	return toward(dx, dy, hover, open)
}

// toward returns the action that moves by (dx, dy, dz) metres, limited to maxAction on each axis.
func toward(dx, dy, dz, jaw float64) [4]float64 {
	a := [4]float64{dx / stepSize, dy / stepSize, dz / stepSize, jaw}
	for k := range 3 {
		a[k] = min(max(a[k], -maxAction), maxAction)
	}
	return a
}
