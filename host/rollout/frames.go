package rollout

import (
	"sort"

	"github.com/srpo-dev/srpo/plugins"
)

// frameKeeper selects the recorded frames that the result keeps: those of the longest prefix, in the order of
// ids, of the wanted episodes that fits the budget. Episodes arrive in any order. When the budget is exceeded
// the last id is dropped, and nothing from that id on is taken later.
type frameKeeper struct {
	want    func(Episode) bool
	budget  int
	total   int
	kept    []*Episode // in order
	dropped *Episode   // the first wanted episode that does not fit
}

func newFrameKeeper(r Rules) *frameKeeper {
	k := &frameKeeper{want: r.KeepFrames, budget: r.FrameBytes}
	if k.budget <= 0 {
		k.budget = defaultFrameBytes
	}
	return k
}

// offer decides about a finished episode's frames, and drops those that are not kept.
func (k *frameKeeper) offer(e *Episode) {
	if k.want == nil || e.Frames.IsZero() || k.dropped != nil && !e.before(k.dropped) || !k.want(*e) {
		e.Frames = plugins.Tensor{}
		return
	}
	i := sort.Search(len(k.kept), func(i int) bool { return e.before(k.kept[i]) })
	k.kept = append(k.kept, nil)
	copy(k.kept[i+1:], k.kept[i:])
	k.kept[i] = e
	k.total += len(e.Frames.Data)
	for k.total > k.budget {
		last := k.kept[len(k.kept)-1]
		k.kept = k.kept[:len(k.kept)-1]
		k.total -= len(last.Frames.Data)
		last.Frames = plugins.Tensor{}
		k.dropped = last
	}
}
