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

// layout contains a task and the positions of its blocks and places before jitter, in metres.
type layout struct {
	task           env.Task
	blocks, places [2][2]float64
	n              int    // number of blocks
	salt           uint64 // seeds the start states
}

// layouts lists the tasks in their fixed order. Block and place 0 are red, 1 are blue.
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

// start sets w to a start state: it shifts every block on each axis uniformly within jitter (metres), and
// the gripper within half of it. A start state does not depend on a seed.
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

// reseed seeds g with two numbers. It mixes them with SplitMix64's finaliser, because the first numbers
// of PCGs with consecutive seeds are similar.
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

// findTask returns the layout of a task id, or a NotFound error that suggests similar ids.
func findTask(id string) (*layout, error) {
	for _, l := range layouts {
		if l.task.ID == id {
			return l, nil
		}
	}
	var near []string
	all := make([]string, len(layouts))
	for i, l := range layouts {
		all[i] = l.task.ID
		if distance(strings.ToLower(id), l.task.ID) <= 3 || strings.HasSuffix(l.task.ID, "/"+id) {
			near = append(near, l.task.ID)
		}
	}
	if len(near) > 0 {
		return nil, plugins.Errorf(plugins.NotFound, "there is no task %q", id).
			WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return nil, plugins.Errorf(plugins.NotFound, "there is no task %q", id).
		WithHint("the tasks are %s", strings.Join(all, ", "))
}

// distance returns the Levenshtein distance of a and b in bytes.
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
