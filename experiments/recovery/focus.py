import sys,random,time,json,collections; import fuzz; from fuzz import *
def fdraw(seed,kind):
    c=draw(seed,kind); r=random.Random(seed^0x5eed)
    c['most']=r.choice([65,66,80,100,126,127,128,129,130,140,180,190,191,192,200,255,256,257,512,520,600]); m=c['most']
    if c['size']: c['size']=[r.choice([('ge',r.randint(65,max(65,m))),('eq',r.randint(65,max(65,m))),('ge',r.choice([65,66,67])),('eq',m),('pre',r.randint(65,max(65,m)))])]
    for i,v in list(c['by'].items()):
        if v[0]=='pair': c['by'][i]=r.choice([('any',),('dec',c['reqs'][i-1][0],1),('pos',max(0,c['reqs'][i-1][0]-1))])
    c['reqs']=[(n,mm if r.random()<.7 else r.choice([1,2,3,9,10,100]),p,s) for n,mm,p,s in c['reqs']]
    return c
if __name__=='__main__':
    a,secs,kinds=int(sys.argv[1]),float(sys.argv[2]),sys.argv[3].split(','); only=sys.argv[4:] 
    if only:
        for o in only:
            k,s=o.split(':'); c=fdraw(int(s),k); print(o,go(c),dict(c['why']))
        sys.exit()
    end=time.time()+secs; s=a; N=0
    while time.time()<end:
        for k in kinds:
            c=fdraw(s,k); N+=1
            try: res=go(c)
            except Exception as ex: res=[f'EXC {type(ex).__name__} {str(ex)[:100]}'],0,0,0
            if res[0]: print(f'{k}:{s}',res,flush=True)
        s+=1
    print('N',N)
