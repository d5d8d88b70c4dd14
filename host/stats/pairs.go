package stats

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// Pairs counts the outcomes of the same episodes with two policies, A and B.
type Pairs struct {
	Both    int `json:"both"`
	OnlyA   int `json:"only_a"`
	OnlyB   int `json:"only_b"`
	Neither int `json:"neither"`
}

// N returns the number of episodes.
func (p Pairs) N() int { return p.Both + p.OnlyA + p.OnlyB + p.Neither }

// Add counts an episode that succeeded with A, with B, with both or with neither.
func (p *Pairs) Add(a, b bool) {
	switch {
	case a && b:
		p.Both++
	case a:
		p.OnlyA++
	case b:
		p.OnlyB++
	default:
		p.Neither++
	}
}

// Difference returns the success rate of B minus that of A with Newcombe's 95 % interval for paired proportions
// (1998, method 10, https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C). The
// interval combines the Wilson intervals of both rates and corrects for the correlation of the pairs. Without
// episodes it is 0 with [-1, 1].
func (p Pairs) Difference() (diff, low, high float64) {
	n := p.N()
	if n == 0 {
		return 0, -1, 1
	}
	a, b, c, d := float64(p.Both), float64(p.OnlyB), float64(p.OnlyA), float64(p.Neither)
	rateB, rateA := (a+b)/float64(n), (a+c)/float64(n)
	lowB, highB := Wilson(rateB, n)
	lowA, highA := Wilson(rateA, n)
	diff = rateB - rateA

	// phi is the correlation, with Newcombe's continuity correction: half an observation less in a positive
	// numerator.
	phi := 0.0
	if product := (a + b) * (c + d) * (a + c) * (b + d); product > 0 {
		top := a*d - b*c
		switch k := float64(n) / 2; {
		case top > k:
			top -= k
		case top >= 0:
			top = 0
		}
		phi = top / math.Sqrt(product)
	}
	down, downOther := rateB-lowB, highA-rateA
	up, upOther := highB-rateB, rateA-lowA
	low = diff - math.Sqrt(max(0, down*down-2*phi*down*downOther+downOther*downOther))
	high = diff + math.Sqrt(max(0, up*up-2*phi*up*upOther+upOther*upOther))
	return diff, max(-1, low), min(1, high)
}

// McNemar returns the p-value of McNemar's exact two-sided test: the probability of a split of the differing pairs at
// least as uneven as this one when neither policy is better.
func (p Pairs) McNemar() float64 {
	n := p.OnlyA + p.OnlyB
	if n == 0 {
		return 1
	}
	tail := distuv.Binomial{N: float64(n), P: 0.5}.CDF(float64(min(p.OnlyA, p.OnlyB)))
	return min(1, 2*tail)
}
