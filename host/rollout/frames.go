package rollout

import (
	"sort"

	"github.com/srpo-dev/srpo/plugins"
)

// keeper holds the recorded frames that the result keeps: those of the longest prefix, in the order of ids, of the wanted episodes that fits the budget.
// Episodes come in any order; when the budget is exceeded the last id goes, and nothing at or behind it is taken any more.
type keeper struct {
	want   func(Episode) bool
	budget int
	total  int
	kept   []*Episode // in order
	border *Episode   // first wanted episode that does not fit
}

func newKeeper(r Rules) *keeper {
	k := &keeper{want: r.KeepFrames, budget: r.FrameBytes}
	if k.budget <= 0 {
		k.budget = defaultFrameBytes
	}
	return k
}

// offer decides about a finished episode's frames; they are dropped where they are not kept.
func (k *keeper) offer(e *Episode) {
	if k.want == nil || e.Frames.IsZero() || k.border != nil && !e.before(k.border) || !k.want(*e) {
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
		k.border = last
	}
}
