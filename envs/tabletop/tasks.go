package tabletop

import (
	"hash/fnv"
	"math/rand/v2"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

const (
	suite       = "tabletop"
	startStates = 50
)

// layout is where a task's blocks and places are, before jitter, in metres on the table.
type layout struct {
	task           env.Task
	blocks, places [2][2]float64
	n              int
	salt           uint64
}

// layouts are the tasks in their fixed order. Block and place 0 are red, 1 are blue.
var layouts = []*layout{
	newLayout("two_blocks", "put the red block on the red plate and the blue block on the blue plate", 2, 96,
		[2][2]float64{{-0.085, -0.085}, {0.085, -0.085}}, [2][2]float64{{-0.130, 0.085}, {0.130, 0.085}}),
	newLayout("one_block", "put the red block on the red plate", 1, 56,
		[2][2]float64{{-0.070, -0.085}}, [2][2]float64{{0.090, 0.070}}),
	newLayout("two_blocks_far", "put the red block on the red plate and the blue block on the blue plate", 2, 120,
		[2][2]float64{{-0.145, -0.130}, {0.145, -0.130}}, [2][2]float64{{0.130, 0.095}, {-0.130, 0.095}}),
}

func newLayout(name, instruction string, n, maxSteps int, blocks, places [2][2]float64) *layout {
	id := suite + "/" + name
	h := fnv.New64a()
	h.Write([]byte(id))
	return &layout{blocks: blocks, places: places, n: n, salt: h.Sum64(), task: env.Task{
		ID: id, Suite: suite, Instruction: instruction, StartStates: startStates, MaxSteps: maxSteps,
		Tags: map[string]string{"blocks": string(rune('0' + n))},
	}}
}

// start puts w into a start state: every block shifted on each axis, and the gripper by half as much, evenly within jitter (metres). A start state is the
// same for every seed.
func (l *layout) start(w *world, state int, jitter float64) {
	var g rand.PCG
	reseed(&g, l.salt, uint64(state))
	r := rand.New(&g)
	shift := func(by float64) float64 { return by * (2*r.Float64() - 1) }
	w.layout, w.n, w.held, w.gap = l, l.n, -1, w.jawMax
	w.blocks, w.holding = [2]block{}, [3]float64{}
	for i := range l.n {
		w.blocks[i].pos = [3]float64{l.blocks[i][0] + shift(jitter), l.blocks[i][1] + shift(jitter), 0}
	}
	w.grip = [3]float64{shift(jitter / 2), -0.01 + shift(jitter/2), 0.15}
}

// reseed starts g anew from two numbers. The mixing (SplitMix64's finaliser) is needed: the first numbers of a PCG that was seeded with neighbouring steps
// resemble each other.
func reseed(g *rand.PCG, a, b uint64) {
	mixed := func(x uint64) uint64 {
		x += 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return x ^ x>>31
	}
	h := mixed(mixed(a) ^ b)
	g.Seed(h, mixed(h))
}

func findTask(id string) (*layout, error) {
	for _, l := range layouts {
		if l.task.ID == id {
			return l, nil
		}
	}
	// The bare name is what people type; name the nearest, and all when none is near.
	var near []string
	all := make([]string, len(layouts))
	for i, l := range layouts {
		all[i] = l.task.ID
		if d := distance(strings.ToLower(id), l.task.ID); d <= 3 || strings.HasSuffix(l.task.ID, "/"+id) {
			near = append(near, l.task.ID)
		}
	}
	if len(near) > 0 {
		return nil, plugins.Errorf(plugins.NotFound, "there is no task %q", id).WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return nil, plugins.Errorf(plugins.NotFound, "there is no task %q", id).WithHint("the tasks are %s", strings.Join(all, ", "))
}

// distance is the number of letters to insert, delete or replace to turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
