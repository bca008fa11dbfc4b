import sys; from fuzz import *
from octavo.engine.recovery import killers as KK
for o in sys.argv[1:]:
    k,s=o.split(':'); c=draw(int(s),k); print({a:b for a,b in c.items() if a!='why'})
    orig=KK.KillerSearch.record_trial; oi=KK.KillerSearch.__init__
    def rt(self,*,died):
        t=self.trial; r=orig(self,died=died); print('   trial',t.group,t.in_small_steps,'died',died,'lived',self.has_lived,'->',r); return r
    def init(self,p,*a,**k2):
        print('  search',dict(p),[dict(x) if hasattr(x,'items') else x for x in a]); oi(self,p,*a,**k2)
    KK.KillerSearch.record_trial=rt; KK.KillerSearch.__init__=init
    print(go(c),dict(c['why'])); KK.KillerSearch.record_trial=orig; KK.KillerSearch.__init__=oi
