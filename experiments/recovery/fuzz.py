import logging; logging.disable(logging.CRITICAL)
import sys, random, time, signal, json, collections
from engine.harness import alone, config, request, Outcome, collect
from octavo.engine import Engine
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.errors import RequestFailedError, WorkerDiedError
from octavo.testing.mock_worker import MockSource, MockWorker

class K(MockWorker):
    case=None; doomed=False
    def send(self, plan):
        self._check_alive()
        if not self.doomed:
            seeds={s:h.sampling.seed for s,h in self._slots.items()}
            lens={s:h.num_prompt if hasattr(h,'num_prompt') else 0 for s,h in self._slots.items()}
            for a in plan.admissions: seeds[a.slot]=a.sampling.seed
            why=deadly(self.case, plan, seeds)
            if why:
                self.doomed=True; self.case['why'][why]+=1
                if self.case['mode']=='now': self.die("oob",exit_code=-signal.SIGSEGV)
        if not self.doomed: super().send(plan)
        elif self.case['mode']=='now': self._check_alive()
    def receive(self, t):
        if self.doomed and (not self._results or self.case['mode']=='lost'):
            self.die("oob", exit_code=-signal.SIGSEGV)
        return super().receive(t)

def deadly(c, plan, seeds):
    n=sum(x.count for x in plan.chunks); b=c['by']
    for kind,*a in c['size']:
        if kind=='ge' and n>=a[0]: return 'size'
        if kind=='eq' and n==a[0]: return 'size'
        if kind=='reqs' and len(plan.chunks)==a[0]: return 'size'
        if kind=='reqsge' and len(plan.chunks)>=a[0]: return 'size'
        if kind=='dec' and len(plan.chunks)>=a[0] and all(x.count==1 for x in plan.chunks): return 'size'
        if kind=='pre' and any(x.count>=a[0] for x in plan.chunks): return 'size'
    here={seeds[x.slot]:x for x in plan.chunks}
    for who,(kind,*a) in b.items():
        x=here.get(who)
        if x is None: continue
        if kind=='pos' and x.start<=a[0]<x.start+x.count: return 'req'
        if kind=='prefill' and x.count>1: return 'req'
        if kind=='dec' and x.count==1 and x.start>=a[0] and x.start%a[1]==0: return 'req'
        if kind=='pair' and a[0] in here: return 'req'
        if kind=='any': return 'req'

def draw(seed, kinds):
    r=random.Random(seed)
    most=r.choice([100,127,128,129,160,200,256,300,512,1024,2048]); seqs=r.choice([1,2,3,4,8,16])
    k=r.choice([1,1,2,2,3,4,5,8,12])
    def L(): return r.choice([r.randint(1,20),r.randint(40,140),r.randint(100,700),r.choice([64,65,127,128,129,130,200,256])])
    c=dict(seed=seed,most=most,seqs=seqs,pc=r.random()<.5,mode=r.choice(['late','late','lost','now']),size=[],by={},
      reqs=[(L(), r.choice([1,1,2,3,5,8,20,60]), r.choice([0,0,0,1,-1]) if r.random()<.4 else 0, r.choice([None,None,'eos','stop'])) for _ in range(k)],
      shared=r.random()<.3, bs=r.choice([4,16]), head=r.choice([0,0,3]), abort={}, outside=[], why=collections.Counter())
    if 'a' in kinds:
        c['size']=[r.choice([('ge',r.choice([65,66,70,80,100,127,128,129,r.randint(65,max(66,most))])),('ge',r.randint(65,max(66,most))),('eq',r.choice([65,66,100,127,128,r.randint(65,max(66,most))])),('eq',most)])]
        if 'x' in kinds: c['size']=[r.choice([('pre',r.randint(65,max(66,most))),('reqs',r.randint(2,8)),('reqsge',r.randint(2,8)),('dec',r.randint(1,6))])]
    if 'b' in kinds:
        for _ in range(r.choice([1,1,2])):
            i=r.randrange(k)
            n=c['reqs'][i][0]
            o=r.choice(['pos','pos','prefill','dec','pair','any'])
            if o=='pos': v=('pos',r.randint(0,n-1))
            elif o=='dec': v=('dec',n,r.choice([1,1,2,3]))
            elif o=='pair':
                j=r.randrange(k)
                if j==i: v=('any',)
                else: v=('pair',j+1)
            else: v=(o,)
            c['by'][i+1]=v
    if 'd' in kinds:
        for i in range(k):
            if r.random()<.2: c['abort'][f'r{i}']=r.randint(1,60)
    if 'o' in kinds: c['outside']=sorted(r.sample(range(1,80),r.randint(1,3)))
    return c

def go(c):
    limits=config(max_num_batched_tokens=c['most'],num_blocks=1000 if c['bs']==16 else 2500,max_num_seqs=c['seqs'],prefix_caching=c['pc'],block_size=c['bs'],priorities=True)
    def made(_,cfg):
        w=K(cfg); w.case=c; return w
    src=MockSource(limits,made)
    e=Engine(limits,src.start(None),supervisor=Supervisor(src,RestartBudget(10,600.0)))
    asked=[]
    import inspect
    for i,(n,m,p,s) in enumerate(c['reqs']):
        kw=dict(temperature=1.0,seed=i+1,max_tokens=m)
        if s=='stop': kw['stop_token_ids']=list(range(0,90,7))
        if s is None: kw['ignore_eos']=True
        toks=[((0 if c['shared'] else i)*7+j*3)%95 for j in range(n)]
        q=request(f'r{i}',toks,**kw)
        if p:
            try:
                import dataclasses; q=dataclasses.replace(q,priority=p)
            except TypeError: pass
        asked.append(q)
    out={}; bad=[]
    h=len(asked)//2 if c['head'] else len(asked)
    for q in asked[:h]: e.add(q)
    late=asked[h:]; n=0; nw=0; stale=0; seen=None
    aborted=set()
    while e.has_work or late:
        n+=1
        if late and n>c['head']:
            for q in late:
                try: e.add(q)
                except WorkerDiedError: out[q.request_id]=Outcome(reason='x'); out[q.request_id].error=WorkerDiedError('gone')
            late=[]
        if n in c['outside']: src.workers[-1].die("outside",exit_code=-9)
        for a,t in c['abort'].items():
            if t==n: e.abort(a); aborted.add(a)
        collect(out,e.step(0)); e.check_invariants()
        if n>20000: bad.append('NEVER ENDS'); break
    aborts=set()
    for i,q in enumerate(asked):
        o=out.get(q.request_id)
        if o is None:
            bad.append(f'NO ANSWER {q.request_id}'); continue
        killer=(i+1) in c['by'] or any(v[0]=='pair' and v[1]==i+1 for v in c['by'].values())
        if o.error is not None:
            if isinstance(o.error,RequestFailedError):
                if not killer: bad.append(f'INNOCENT BLAMED {q.request_id}')
            else: bad.append('GIVEN UP') if 'GIVEN UP' not in bad else None
        elif q.request_id in aborted and o!=alone(q,limits): pass
        elif o!=alone(q,limits): bad.append(f'DIFFERS {q.request_id}')
    st=e.status()
    if not c['size'] and st.step_token_limit<c['most']: bad.append(f'LIMIT {st.step_token_limit}')
    if c['size'] and st.step_token_limit<64: bad.append('LIMIT<64')
    return bad, len(src.workers)-1, st.step_token_limit, n
if __name__=='__main__':
    kinds=sys.argv[1]; a=int(sys.argv[2]); secs=float(sys.argv[3]); end=time.time()+secs
    outf=open(sys.argv[4],'w'); N=0; s=a
    stop=int(sys.argv[5]) if len(sys.argv)>5 else None
    tally=collections.Counter()
    while time.time()<end and (stop is None or s<stop):
        c=draw(s,kinds)
        try: bad,d,l,n=go(c)
        except Exception as ex: bad,d,l,n=[f'EXC {type(ex).__name__} {str(ex)[:200]}'],0,0,0
        N+=1
        for b in bad: tally[b.split(' r')[0].split(' 1')[0][:12]]+=1
        print(s,json.dumps([bad,d,l,n]),file=outf)
        s+=1
    print(kinds,N,'last',s,dict(tally))
