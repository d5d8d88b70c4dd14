package tabletop

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// table returns a world of task two_blocks without jitter, with the open gripper above the middle.
func table() *world {
	w := &world{jawMax: 0.08, slack: 0.02, noise: func() float64 { return 0.25 }}
	layouts[0].start(w, 0, 0)
	return w
}

// goTo moves the gripper towards a point for n steps, with a constant jaw action.
func (w *world) goTo(x, y, z, jaw float64, n int) {
	for range n {
		a := [4]float64{(x - w.grip[0]) / stepSize, (y - w.grip[1]) / stepSize, (z - w.grip[2]) / stepSize, jaw}
		for k := range 3 {
			a[k] = min(max(a[k], -1), 1)
		}
		w.step(a)
	}
}

// grasp closes the gripper with the given offset from the red block and lifts it.
func (w *world) grasp(dx, dy, dz float64) {
	b := w.blocks[0].pos
	w.goTo(b[0]+dx, b[1]+dy, 0.12, -1, 10)
	w.goTo(b[0]+dx, b[1]+dy, dz, -1, 6)
	w.goTo(b[0]+dx, b[1]+dy, dz, 1, 6)
	w.goTo(b[0]+dx, b[1]+dy, 0.12, 1, 6)
}

func TestGraspTolerance(t *testing.T) {
	for _, c := range []struct {
		name       string
		dx, dy, dz float64
		held       bool
	}{
		{"in the middle", 0, 0, 0.012, true},
		{"off along the jaw", 0.019, 0, 0.012, true},
		{"off across the jaw", 0, -0.019, 0.012, true},
		{"at the table", 0.01, 0.01, 0, true},
		{"at its upper edge", 0, 0, 0.035, false},
		{"above it", 0, 0, 0.06, false},
		{"a finger on top of it", 0.03, 0, 0.012, false},
		{"by its edge only", 0, 0.025, 0.012, false},
		{"next to it", 0, 0.05, 0.012, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := table()
			start := w.blocks[0].pos
			w.grasp(c.dx, c.dy, c.dz)
			require.Equal(t, c.held, w.held == 0)
			if c.held {
				require.Greater(t, w.blocks[0].pos[2], 0.08, "lifted")
				require.InDelta(t, 2*blockHalf, w.gap, 1e-9, "the gap equals the block's width")
				require.Less(t, math.Abs(w.blocks[0].pos[0]-w.grip[0]), 1e-9, "the jaw centres it")
				return
			}
			require.Zero(t, w.blocks[0].pos[2])
			if c.name == "by its edge only" {
				require.Less(t, w.blocks[0].pos[1], start[1]-0.005, "it slipped out of the jaw")
				require.Zero(t, w.gap)
			}
			if c.name == "a finger on top of it" {
				require.InDelta(t, 0.12, w.grip[2], 0.01)
				require.Equal(t, start, w.blocks[0].pos)
			}
		})
	}
}

func TestFingersStopOnTop(t *testing.T) {
	w := table()
	b := w.blocks[0].pos
	w.goTo(b[0]+0.03, b[1], 0.12, -1, 10)
	w.goTo(b[0]+0.03, b[1], 0.005, -1, 10)
	require.InDelta(t, blockHeight, w.grip[2], 1e-9)
}

func TestPushing(t *testing.T) {
	w := table()
	b := w.blocks[0].pos
	w.goTo(b[0]-0.10, b[1], 0.01, 1, 12)
	w.goTo(0.22, b[1], 0.01, 1, 12)
	require.Greater(t, w.blocks[0].pos[0], 0.1, "the gripper pushes the block")
	require.Greater(t, w.blocks[1].pos[0], w.blocks[0].pos[0]+2*blockHalf-1e-9, "the block pushes the other block")
	require.LessOrEqual(t, w.blocks[1].pos[0], reachHigh[0], "the rim stops the blocks")
	require.Less(t, w.grip[0], w.blocks[0].pos[0], "the blocks stop the gripper")

	// A block cannot be pushed onto its place.
	w = table()
	b, p := w.blocks[0].pos, w.layout.places[0]
	w.goTo(b[0], b[1]-0.06, 0.01, 1, 10)
	w.goTo(b[0], 0.18, 0.01, 1, 14)
	require.InDelta(t, p[1]-plateHalf-blockHalf, w.blocks[0].pos[1], 0.011)
	require.False(t, w.placed(0))
}

func TestRelease(t *testing.T) {
	p := layouts[0].places[0]
	over := func(dx, dy, z float64) *world {
		w := table()
		w.grasp(0, 0, 0.012)
		w.goTo(p[0]+dx, p[1]+dy, 0.12, 1, 10)
		w.goTo(p[0]+dx, p[1]+dy, z, 1, 6)
		w.goTo(p[0]+dx, p[1]+dy, z, -1, 8)
		require.Equal(t, -1, w.held)
		return w
	}
	w := over(0, 0, 0.03)
	require.True(t, w.placed(0))
	require.False(t, w.success(), "the blue block is not placed")
	require.InDelta(t, 0.5, w.progress(), 1e-9)
	require.True(t, over(0.04, -0.04, 0.03).placed(0), "near the edge")

	off := over(0, -0.055, 0.03)
	require.False(t, off.placed(0))
	require.Zero(t, off.blocks[0].pos[2], "the block slid off the edge")

	// A block that is dropped from high tumbles (here along y), and falls off if it is near the edge.
	high := over(0, 0, 0.20)
	require.InDelta(t, p[1]+scatter*(math.Sqrt(2*gravity*0.17)-calmImpact), high.blocks[0].pos[1], 0.005)
	require.True(t, high.placed(0))
	off = over(0, 0.03, 0.20)
	require.False(t, off.placed(0))
	require.Zero(t, off.blocks[0].pos[2])

	// The other block's place does not count.
	w = table()
	w.grasp(0, 0, 0.012)
	q := w.layout.places[1]
	w.goTo(q[0], q[1], 0.12, 1, 10)
	w.goTo(q[0], q[1], 0.03, 1, 6)
	w.goTo(q[0], q[1], 0.03, -1, 6)
	require.InDelta(t, plateHeight, w.blocks[0].pos[2], 1e-9)
	require.False(t, w.placed(0))
}

func TestStacking(t *testing.T) {
	w := table()
	w.grasp(0, 0, 0.012)
	b := w.blocks[1].pos
	w.goTo(b[0], b[1], 0.12, 1, 10)
	w.goTo(b[0], b[1], 0.05, 1, 6)
	w.goTo(b[0], b[1], 0.06, -1, 3)
	w.goTo(b[0], b[1], 0.15, -1, 5)
	require.InDelta(t, blockHeight, w.blocks[0].pos[2], 1e-9)
	require.Equal(t, b, w.blocks[1].pos)
}

func TestProgressGrows(t *testing.T) {
	w := table()
	b, p := w.blocks[0].pos, w.layout.places[0]
	require.Zero(t, w.progress())
	want := func(v float64) { t.Helper(); require.InDelta(t, v, w.progress(), 1e-9) }
	w.goTo(b[0], b[1], 0.012, -1, 8)
	want(0.1)
	w.goTo(b[0], b[1], 0.012, 1, 4)
	want(0.2)
	w.goTo(b[0], b[1], 0.10, 1, 5)
	want(0.3)
	w.goTo(p[0], p[1], 0.10, 1, 8)
	want(0.4)
	w.goTo(p[0], p[1], 0.03, 1, 5)
	w.goTo(p[0], p[1], 0.03, -1, 3)
	want(0.5)
}

// TestRandomActions checks the world's invariants under random actions: everything stays in reach,
// nothing overlaps, and a held block moves with the gripper.
func TestRandomActions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	held := 0
	for episode := range 200 {
		w := table()
		w.noise = r.Float64
		layouts[episode%len(layouts)].start(w, episode%startStates, 0.04)
		bias := [4]float64{}
		for i := range 150 {
			if i%6 == 0 {
				bias = [4]float64{r.NormFloat64(), r.NormFloat64(), r.NormFloat64(), r.NormFloat64()}
			}
			a := w.expert(0)
			for k := range a {
				// Half of the episodes are random, half disturb the expert.
				strength := 0.3
				if episode%2 == 0 {
					a[k], strength = 0, 0.8
				}
				a[k] = min(max(a[k]+strength*(bias[k]+0.4*r.NormFloat64()), -1), 1)
			}
			before := *w
			w.step(a)
			if w.held >= 0 {
				held++
			}
			for k := range 3 {
				require.True(t, w.grip[k] >= reachLow[k]-1e-9 && w.grip[k] <= reachHigh[k]+1e-9, "grip %v", w.grip)
				require.LessOrEqual(t, math.Abs(w.grip[k]-before.grip[k]), stepSize+1e-9)
			}
			require.True(t, w.gap >= 0 && w.gap <= w.jawMax, "gap %v", w.gap)
			left, right := w.finger(-1), w.finger(1)
			for b := range w.n {
				pos := w.blocks[b].pos
				inReach := pos[2] >= 0
				for k := range 2 {
					inReach = inReach && pos[k] >= reachLow[k]-1e-9 && pos[k] <= reachHigh[k]+1e-9
				}
				require.True(t, inReach,
					"episode %d step %d: block %d at %v", episode, i, b, pos)
				if b == w.held {
					require.InDelta(t, w.grip[2]+w.holding[2], pos[2], 1e-9)
				}
				mine := shrunk(w.blocks[b].box())
				for p := range w.n {
					plate := plateBox(w.layout.places[p])
					require.False(t, b == w.held && mine.overlaps(&plate),
						"episode %d step %d: held block in place %d", episode, i, p)
				}
				require.False(t, mine.overlaps(&left) || mine.overlaps(&right),
					"episode %d step %d: a finger is in block %d: %v, before %v", episode, i, b, w, before)
			}
		}
		// Without actions everything comes to rest without overlaps.
		for range 30 {
			w.step([4]float64{0, 0, 1, 0})
		}
		for b := range w.n {
			mine := shrunk(w.blocks[b].box())
			for p := range w.n {
				plate := plateBox(w.layout.places[p])
				require.False(t, mine.overlaps(&plate), "episode %d: block %d at %v in place %d", episode, b,
					w.blocks[b].pos, p)
			}
			other := w.blocks[1-b].box()
			require.False(t, w.n == 2 && mine.overlaps(&other), "episode %d: blocks in each other", episode)
		}
	}
	require.Greater(t, held, 1000, "blocks must be held in many steps")
}

// shrunk returns the box smaller by the overlap that rounding and a falling block's last substep may cause.
func shrunk(b box) box {
	for k := range 3 {
		b.low[k] += 1e-6
		b.high[k] -= 1e-6
	}
	return b
}
