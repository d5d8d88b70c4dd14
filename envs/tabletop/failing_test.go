package tabletop

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins/env"
)

// TestFailuresFail checks that no failure mode ever succeeds, and what happens to the block in each.
func TestFailuresFail(t *testing.T) {
	for _, mode := range failures {
		for _, l := range layouts {
			t.Run(mode+" "+l.task.ID, func(t *testing.T) {
				lifted, ended, held := 0, 0, 0
				const episodes = 20
				for i := range episodes {
					e := open(t, 1, 0, nil)
					reset(t, e, env.Reset{Task: l.task.ID, StartState: i, Seed: uint64(i)})
					f := &e.(*Tabletop).lanes[0]
					high := false
					for {
						tr := stepExpert(t, e, env.ExpertStep{Steps: 1, Noise: 0.05, Failure: mode})
						require.False(t, tr.Success, "start state %d, step %d", i, tr.EpisodeSteps)
						if b := f.failing.block; f.world.held == b && f.world.blocks[b].pos[2] > 0.03 {
							high = true
						}
						if tr.Done() {
							break
						}
					}
					if high {
						lifted++
					}
					if f.failing.phase == resting {
						ended++
					}
					if f.world.held == f.failing.block {
						held++
					}
				}
				t.Logf("lifted %d, at rest %d, held at the end %d of %d", lifted, ended, held, episodes)
				switch mode {
				case failMiss:
					require.Zero(t, lifted, "a miss lifts nothing")
					require.Equal(t, episodes, ended, "a miss goes through all motions")
				case failDrop:
					require.Equal(t, []int{episodes, episodes, 0}, []int{lifted, ended, held})
				case failStall:
					require.Equal(t, []int{episodes, episodes, episodes}, []int{lifted, ended, held})
				case failWrong:
					require.Equal(t, []int{episodes, 0}, []int{lifted, held}, "the block is carried and put down")
				}
			})
		}
	}
}
